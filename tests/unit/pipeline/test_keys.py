"""Keys: which steps a change makes run again."""

from __future__ import annotations

import pytest

from components.common import artifacts
from pipeline import keys
from pipeline.config import load_config

CHANGES = [
    ("ingest.eval_fraction=0.3", {"ingest", "validate", "train", "evaluate", "gate", "push"}),
    ("validate.min_deviation=2.0", {"validate", "train", "evaluate", "gate", "push"}),
    ("train.seed=1", {"train", "evaluate", "gate", "push"}),
    ("evaluate.seed=1", {"evaluate", "gate", "push"}),
    ("gate.confidence=0.9", {"gate", "push"}),
    ("push.serving_image=other", {"push"}),
    ("run.dir=elsewhere", set()),
]


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {step for step in before if before[step] != after[step]}


@pytest.mark.parametrize(("override", "steps"), CHANGES)
def test_a_change_affects_only_its_step_and_later_ones(override: str, steps: set[str]) -> None:
    assert changed(keys.step_keys(load_config(None), "f"), keys.step_keys(load_config(None, [override]), "f")) == steps


def test_new_content_of_the_source_changes_every_key() -> None:
    assert changed(keys.step_keys(load_config(None), "f"), keys.step_keys(load_config(None), "g")) == set(keys.UPSTREAM) - {
        "tpu_check"
    }


@pytest.mark.parametrize("override", ["validate.accept=s0123456789ab", "validate.history=/elsewhere"])
def test_history_settings_change_only_the_key_of_validate(override: str) -> None:
    assert changed(keys.step_keys(load_config(None), "f"), keys.step_keys(load_config(None, [override]), "f")) == {"validate"}


def test_another_baseline_snapshot_changes_only_the_key_of_validate() -> None:
    config = load_config(None)
    known = [keys.step_keys(config, "f", state) for state in (["id", ""], ["id", "s1"], ["other", ""])]
    assert changed(known[0], known[1]) == changed(known[0], known[2]) == {"validate"}
    assert keys.step_keys(config, "f", ["id", ""]) == known[0]


def test_changed_code_changes_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys.step_keys(load_config(None), "f")
    monkeypatch.setattr(keys, "code_digest", lambda step: "new" if step == "evaluate" else artifacts.code_digest(step))
    assert changed(before, keys.step_keys(load_config(None), "f")) == {"evaluate", "gate", "push"}
