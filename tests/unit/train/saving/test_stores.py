"""Checkpoints in each kind of store: the newest intact one is loaded, and what is incomplete does not exist."""

from __future__ import annotations

import pytest

from components.common.errors import ArtifactError, UnreachableError
from components.common.store import Store, store_at
from components.train.saving import checkpoint
from tests.support.stores import location, servers
from tests.unit.train.saving.test_checkpoint import CONFIG, KEY, SHAPE, made

__all__ = ["location", "servers"]


@pytest.fixture
def store(location: str) -> Store:
    """The store of a training with the checkpoints of rounds 4, 8, 12 and 16, of which three are kept."""
    store = store_at(location, KEY)
    for rounds in (4, 8, 12, 16):
        checkpoint.save(store, CONFIG, SHAPE, made(rounds))
    return store


def loaded_round(store: Store) -> int:
    found = checkpoint.load_latest(store, CONFIG, SHAPE)
    assert found is not None
    return found.progress.round


def test_the_newest_intact_checkpoint_is_loaded(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(store.names()) == ["round-00000008", "round-00000012", "round-00000016"]
    assert loaded_round(store) == 16
    store.write("round-00000016/state.npz", [b"other bytes"])
    assert loaded_round(store) == 12
    assert (
        "Checkpoint round-00000016 is damaged (state.npz does not match its digest); loading round-0" in capsys.readouterr().out
    )
    checkpoint.save(store, CONFIG, SHAPE, made(16))
    assert loaded_round(store) == 16


def test_an_incomplete_checkpoint_does_not_exist(store: Store) -> None:
    store.delete("round-00000016/manifest.json")
    assert loaded_round(store) == 12
    checkpoint.remove_unfinished(store)
    assert sorted(store.names()) == ["round-00000008", "round-00000012"]


def test_a_store_that_cannot_be_read_is_not_a_damaged_checkpoint(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> bytes:
        raise UnreachableError(f"Cannot read {name}: timeout.", "Wait.")

    if store.location.partition("://")[1]:
        monkeypatch.setattr(store, "read", fail)
        with pytest.raises(ArtifactError, match="timeout"):
            checkpoint.load_latest(store, CONFIG, SHAPE)
