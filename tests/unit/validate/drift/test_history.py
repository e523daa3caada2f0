"""Snapshots: which are accepted, which stop a run with which sentence, and the errors of a broken history."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError, DataRejectedError
from components.common.store import store_at
from components.validate import run as run_module
from components.validate.config import ValidateConfig
from components.validate.drift import compare
from components.validate.drift.history import Acceptance, History, snapshot_id
from components.validate.run import ValidateSummary, run
from tests.support.datasets.snapshots import Images, Labels, brighter, digits, with_blanks, without_label, write_snapshot
from tests.support.kills import killed_at
from tests.support.stores import KINDS, MOUNT, location, servers

__all__ = ["location", "servers"]

NAMES = tuple("0123456789")


class Bench:
    """A history, and datasets that are validated against it."""

    def __init__(self, root: Path, history: str = "") -> None:
        self.root, self.history = root, history or str(root / "history")
        self.store = store_at(self.history)

    def validate(
        self, name: str, images: Images, labels: Labels, names: tuple[str, ...] = NAMES, **fields: Any
    ) -> ValidateSummary:
        """Write a dataset, unless there is one of that name, and validate it."""
        dataset = self.root / name
        if not dataset.exists():
            write_snapshot(dataset, images, labels, names)
        return run(ValidateConfig(history=self.history, **fields), dataset=dataset, out=self.root / f"out-{name}")

    def id(self, name: str) -> str:
        """Return the snapshot id of a dataset."""
        return snapshot_id(read_manifest(self.root / name).digest)

    def accepted(self) -> list[Acceptance]:
        """Return the acceptances, oldest first."""
        return History(self.history).accepted().entries

    def folders(self, kind: str) -> set[str]:
        """Return the names of the folders of snapshots or refused ones."""
        return {name.split("/")[1] for name in self.store.files(kind)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A history with the digits as its first snapshot."""
    made = Bench(tmp_path)
    made.validate("first", *digits())
    return made


@pytest.fixture
def anywhere(tmp_path: Path, location: str) -> Bench:
    """The same in each kind of store."""
    made = Bench(tmp_path, location)
    made.validate("first", *digits())
    return made


def stopped(bench: Bench, images: Images, labels: Labels, name: str = "next", **fields: Any) -> str:
    """Validate a dataset that must be refused; return the error message."""
    with pytest.raises(DataRejectedError) as caught:
        bench.validate(name, images, labels, **fields)
    assert caught.value.exit_code == 3
    assert not (bench.root / f"out-{name}").exists()
    return str(caught.value)


def test_the_first_snapshot_creates_the_schema_and_the_history(bench: Bench) -> None:
    (entry,) = bench.accepted()
    assert (entry.snapshot, entry.against, entry.why) == (bench.id("first"), "", "first snapshot")
    assert re.fullmatch("s[0-9a-f]{12}", entry.snapshot)
    assert entry.accepted_by == str(bench.root / "out-first")
    schema = json.loads((bench.root / "out-first" / "schema.json").read_text())
    assert schema == {"image_size": 8, "channels": 1, "labels": list(NAMES), "minimum": 0, "maximum": 255}
    kept = read_manifest(Path(bench.history, "snapshots", entry.stored_as), "snapshot")
    assert kept.files == read_manifest(bench.root / "out-first", "validation").files


def test_an_accepted_dataset_gives_the_same_artifact_without_counting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_manifest(bench.root / "out-first")
    monkeypatch.setattr(run_module, "tally_dataset", lambda *_: pytest.fail("counted again"))
    summary = bench.validate("first", *digits())
    after = read_manifest(bench.root / "out-first")
    assert (after.digest, after.counts, after.inputs) == (before.digest, before.counts, before.inputs)
    assert (summary.snapshot, summary.accepted_against, summary.anomalies) == (bench.id("first"), "", [])
    assert len(bench.accepted()) == 1
    with pytest.raises(DataRejectedError, match="1437 train images where 2000 are needed"):
        bench.validate("first", *digits(), min_train_images=2000)
    with pytest.raises(DataRejectedError, match="The train images are constant"):
        bench.validate("first", *digits(), min_deviation=100.0)


def test_a_small_difference_is_accepted_against_the_last_snapshot(bench: Bench) -> None:
    images, labels = digits()
    second = bench.validate("second", images[:1700], labels[:1700])
    third = bench.validate("third", images[20:], labels[20:])
    assert (second.accepted_against, third.accepted_against) == (bench.id("first"), bench.id("second"))
    assert second.anomalies == third.anomalies == []
    assert [entry.why for entry in bench.accepted()] == ["first snapshot", "no error", "no error"]
    comparison = json.loads((bench.root / "out-second" / "comparison.json").read_text())
    assert comparison["images"] == {"now": 1700, "before": 1797}
    assert sum(comparison["histograms"]["brightness"]["before"]) == 1797


def test_a_wider_range_is_a_warning_and_does_not_change_the_schema(bench: Bench) -> None:
    images, labels = digits()
    narrow = np.minimum(images, 200)
    other = Bench(bench.root / "other")
    other.root.mkdir()
    other.validate("narrow", narrow, labels)
    wide = other.validate("wide", images, labels, max_histogram_drift=1.0, false_alarms=1e-12)
    assert {anomaly["text"] for anomaly in wide.anomalies if anomaly["feature"] == "dataset"} == {
        "grey levels go from 0 to 255, beyond the schema's range 0 to 200"
    }
    assert json.loads((other.root / "out-wide" / "schema.json").read_text())["maximum"] == 200


BREAKS = {
    "a class is gone": (lambda i, x: without_label(i, x, 3), r"no image has label '3' of the schema"),
    "a class is new": (lambda i, x: (i, np.where(x == 3, 10, x)), r"the schema does not have label '10'"),
    "images of another size": (lambda i, x: (i.repeat(2, 1).repeat(2, 2), x), r"images are 16×16×1, the schema requires 8×8×1"),
    "images of other channels": (lambda i, x: (i.repeat(3, 3), x), r"images are 8×8×3, the schema requires 8×8×1"),
    "the range collapses": (lambda i, x: (i // 128, x), r"from 0 to 1, only 0\.4% of the schema's range 0 to 255"),
    "too few images": (lambda i, x: (i[:800], x[:800]), r"there are 800 images, 44\.5% of the 1,797 before"),
    "brightness": (lambda i, x: (brighter(i), x), r"the brightness histogram moved by 0\.\d{4} bits"),
    "blank images": (lambda i, x: (with_blanks(i), x), r"near-blank images went from 0\.00% to 1\.00%"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_violation_of_the_schema_or_drift_is_refused_until_it_is_accepted(what: str, bench: Bench) -> None:
    change, message = BREAKS[what]
    images, labels = change(*digits())
    sentence = stopped(bench, images, labels, min_deviation=0.0)
    now, first = bench.id("next"), bench.id("first")
    assert sentence.startswith(f"Snapshot {now} differs from the accepted snapshot {first}: ")
    assert re.search(message, sentence)
    assert sentence.endswith(f" Correct the source, or accept the snapshot: --set validate.accept={now}")
    assert [entry.snapshot for entry in bench.accepted()] == [first]
    (refused,) = Path(bench.history, "refused").iterdir()
    assert refused.name.startswith(f"{now}-")
    assert read_manifest(refused, "validation").inputs == {"dataset": read_manifest(bench.root / "next").digest}
    assert "error" in {anomaly["severity"] for anomaly in json.loads((refused / "anomalies.json").read_text())}
    summary = bench.validate("next", images, labels, min_deviation=0.0, accept=now)
    assert (summary.snapshot, summary.accepted_against) == (now, first)
    assert any(anomaly["severity"] == "error" for anomaly in summary.anomalies)
    entry = bench.accepted()[-1]
    assert (entry.why, entry.config["accept"], entry.accepted_by) == ("validate.accept", now, str(bench.root / "out-next"))
    assert entry.anomalies
    assert not refused.exists()
    bench.validate("next", images, labels, min_deviation=0.0)  # it stays accepted


def test_accepting_a_violation_changes_the_schema(bench: Bench) -> None:
    images, labels = without_label(*digits(), 3)
    stopped(bench, images, labels)
    bench.validate("next", images, labels, accept=bench.id("next"))
    bench.validate("later", images[10:], labels[10:])
    assert "the schema does not have label '3'" in stopped(bench, digits()[0][5:], digits()[1][5:], name="whole")


def test_accepting_another_snapshot_has_no_effect(bench: Bench) -> None:
    sentence = stopped(bench, brighter(digits()[0]), digits()[1], accept="s0123456789ab")
    assert "validate.accept names s0123456789ab, which is not this snapshot." in sentence
    bench.validate("fit", digits()[0][5:], digits()[1][5:], accept="s0123456789ab")  # an old id in a config file is harmless


@pytest.mark.parametrize("accept", ["0123456789ab", "s0123", "latest", "sABCDEF012345"])
def test_an_invalid_snapshot_id_is_refused_when_the_config_is_read(accept: str) -> None:
    with pytest.raises(ValidationError, match="accept"):
        ValidateConfig(accept=accept)


def test_constant_images_cannot_be_accepted(bench: Bench) -> None:
    images, labels = digits()
    flat = np.full_like(images, 9)
    sentence = stopped(bench, flat, labels, name="flat")
    assert sentence.startswith("The train images are constant")
    assert stopped(bench, flat, labels, name="flat", accept=bench.id("flat")) == sentence


def test_warnings_do_not_stop_a_run(bench: Bench) -> None:
    images, labels = digits()
    summary = bench.validate("brighter", brighter(images), labels, max_histogram_drift=0.25)
    assert {anomaly["severity"] for anomaly in summary.anomalies} == {"warning"}
    assert {anomaly["feature"] for anomaly in summary.anomalies} == {"brightness", "contrast", "channel_0"}


def test_without_a_history_nothing_is_compared(tmp_path: Path) -> None:
    for name, images in (("a", digits()[0]), ("b", brighter(digits()[0]))):
        write_snapshot(tmp_path / name, images, digits()[1])
        summary = run(ValidateConfig(), dataset=tmp_path / name, out=tmp_path / f"out-{name}")
        assert (summary.accepted_against, summary.anomalies) == ("", [])


def damage_snapshot(bench: Bench) -> None:
    (name,) = (name for name in bench.store.files("snapshots") if name.endswith("tally-train.json"))
    bench.store.write(name, [bench.store.read(name)[:-9]])


def exchange_snapshot(bench: Bench) -> None:
    (name,) = (name for name in bench.store.files("snapshots") if name.endswith("manifest.json"))
    manifest = json.loads(bench.store.read(name)) | {"inputs": {"dataset": "0" * 64}}
    bench.store.write(name, [json.dumps(manifest).encode()])


BROKEN = [
    (
        lambda bench: bench.store.write("accepted/000001.json", [b"[{]"]),
        "The history of snapshots .*accepted/000001.json is broken: 1 validation error",
    ),
    (lambda bench: bench.store.write("accepted/000001.json", [b'{"snapshot": 3}']), "is broken: .* validation errors? for Acc"),
    (
        lambda bench: bench.store.remove("snapshots"),
        "is broken: its snapshot s[0-9a-f]{12} is damaged .*not a finished artifact",
    ),
    (damage_snapshot, "is broken: its snapshot s[0-9a-f]{12} is damaged .*tally-train.json does not match its digest"),
    (exchange_snapshot, "is broken: .* belongs to another dataset"),
]


@pytest.mark.parametrize(("spoil", "message"), BROKEN)
def test_a_broken_history_is_not_treated_as_an_empty_one(spoil: Any, message: str, anywhere: Bench) -> None:
    spoil(anywhere)
    with pytest.raises(ArtifactError, match=message) as caught:
        anywhere.validate("second", digits()[0][5:], digits()[1][5:])
    assert anywhere.history in str(caught.value)
    assert "Restore it from a backup, or name another validate.history" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("schema.json", "{", "The schema .* cannot be read"),
        ("schema.json", "{}", "The schema .* cannot be read: 5 validation errors"),
        ("tally-eval.json", "{}", "The tallies in .* cannot be read"),
        ("statistics.json", '{"train": {}}', "The statistics in .* cannot be read"),
    ],
)
def test_a_malformed_snapshot_is_an_error(name: str, content: str, message: str, bench: Bench) -> None:
    from components.common.artifacts import MANIFEST, file_entries

    (folder,) = Path(bench.history, "snapshots").iterdir()
    (folder / name).write_text(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    entries = {file: entry.model_dump() for file, entry in file_entries(folder).items()}
    (folder / MANIFEST).write_text(json.dumps(manifest | {"files": entries}))
    with pytest.raises(ArtifactError, match=message):
        bench.validate("second", digits()[0][5:], digits()[1][5:])


@pytest.mark.parametrize("url", ["http://example.org/history", "az://bucket/history"])
def test_a_url_without_conditional_writes_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"history\n.* cannot create a file on the condition that it does not exist yet"):
        ValidateConfig(history=url)


@pytest.mark.parametrize("location", [*KINDS, MOUNT], indirect=True)
def test_the_state_is_the_history_and_the_compared_snapshot(anywhere: Bench) -> None:
    images, labels = digits()
    first = read_manifest(anywhere.root / "first").digest
    history = History(anywhere.history)
    identity, against = history.state("")
    assert against == anywhere.id("first")
    assert history.state(first) == [identity, ""]
    anywhere.validate("second", images[5:], labels[5:])
    second = read_manifest(anywhere.root / "second").digest
    assert history.state(second) == [identity, anywhere.id("first")]
    assert history.state("") == [identity, anywhere.id("second")]
    assert history.accepted().find(first) is not None
    anywhere.store.remove()
    fresh, nothing = history.state(first)
    assert (fresh != identity, nothing) == (True, "")
    anywhere.store.write("history.json", [b"{"])
    with pytest.raises(ArtifactError, match=r"history\.json is broken"):
        history.state(first)


def test_a_snapshot_that_another_run_accepts_meanwhile_is_accepted_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = digits()[0][5:], digits()[1][5:]
    counting = run_module.tally_dataset
    bench.validate("scratch", images, labels)
    shutil.rmtree(bench.history)
    bench.validate("first", *digits())

    def slow(*arguments: Any) -> Any:
        monkeypatch.setattr(run_module, "tally_dataset", counting)
        bench.validate("scratch", images, labels)
        return counting(*arguments)

    monkeypatch.setattr(run_module, "tally_dataset", slow)
    summary = bench.validate("second", images, labels)
    assert bench.id("second") == bench.id("scratch")
    assert [entry.snapshot for entry in bench.accepted()] == [bench.id("first"), bench.id("second")]
    assert summary.accepted_against == bench.id("first")
    both = [read_manifest(bench.root / f"out-{name}").digest for name in ("scratch", "second")]
    assert both[0] == both[1]


def test_a_validation_that_is_killed_at_any_change_can_be_repeated(anywhere: Bench) -> None:
    """Before and after each change of the store, the first snapshot or both are accepted; the next attempt ends the work."""
    untouched = {name: anywhere.store.read(name) for name in anywhere.store.files()}
    anywhere.validate("second", digits()[0][5:], digits()[1][5:])
    entry, history = anywhere.accepted()[-1], History(anywhere.history)
    (anywhere.root / "out-second" / "manifest.json").unlink()

    def accept() -> None:
        before = history.accepted()
        if before.find(entry.dataset_digest) is None:
            again = entry.model_copy(update={"stored_as": ""})
            history.accept(again, before, ValidateConfig(), anywhere.root / "out-second", anywhere.root / "second")

    lengths = []
    for moment in range(1, 100):
        anywhere.store.remove()
        for name, content in untouched.items():
            anywhere.store.write(name, [content])
        with killed_at(moment) as reached:
            accept()
        lengths.append(len(history.accepted().entries))
        if not reached:
            break
        accept()
        _, second = anywhere.accepted()
        with history.open_snapshot(second):
            assert second.snapshot == anywhere.id("second")
    turn = lengths.index(2)
    assert lengths == [1] * turn + [2] * (len(lengths) - turn)
    assert turn >= 20, "before and after each file, and before the acceptance"
    assert len(lengths) - turn >= 2


@pytest.mark.parametrize("location", [*(kind for kind in KINDS if kind != "memory"), MOUNT], indirect=True)
def test_of_two_validations_at_once_one_compares_again(
    anywhere: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both have compared with the first snapshot before either is accepted."""
    images, labels = digits()
    names, met, turns = ("one", "two"), threading.Barrier(2), threading.local()
    for index, name in enumerate(names):
        write_snapshot(anywhere.root / name, images[5 + index :], labels[5 + index :], NAMES)
    original = compare.reason_to_accept

    def wait(*arguments: Any, **named: Any) -> Any:
        if not getattr(turns, "over", False):
            turns.over = True
            met.wait(60)
        return original(*arguments, **named)

    monkeypatch.setattr(compare, "reason_to_accept", wait)
    threads = [threading.Thread(target=anywhere.validate, args=(name, images, labels)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second, third = anywhere.accepted()
    assert [first.snapshot, second.snapshot] == [second.against, third.against]
    assert {second.snapshot, third.snapshot} == {anywhere.id(name) for name in names}
    assert anywhere.folders("snapshots") == {first.stored_as, second.stored_as, third.stored_as}
    output = capsys.readouterr().out
    assert f"Another run was accepted into {anywhere.history} at the same time; its snapshot stands. Comparing again." in output


def test_a_refused_snapshot_stores_only_what_the_report_shows(anywhere: Bench) -> None:
    for _ in range(2):
        stopped(anywhere, brighter(digits()[0]), digits()[1])
        (folder,) = anywhere.folders("refused")
        assert folder.startswith(f"{anywhere.id('next')}-")
    with History(anywhere.history).open_refused(read_manifest(anywhere.root / "next").digest) as refused:
        assert refused is not None
        kept = {file.name for file in refused.iterdir()}
    assert {"comparison.json", "anomalies.json", "worst.json", "statistics.json"} < kept
    assert not {"sample.tfrecord", "tally-train.json", "tally-eval.json"} & kept
    anywhere.validate("next", brighter(digits()[0]), digits()[1], accept=anywhere.id("next"))
    assert anywhere.folders("refused") == set()
