"""Snapshots: what is accepted, what stops a run with which sentence, and what a broken history says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from google.protobuf import text_format
from pydantic import ValidationError
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError, DataRejectedError
from components.validate import run as run_module
from components.validate.config import ValidateConfig
from components.validate.drift import history as history_module
from components.validate.drift.history import find, read_accepted, snapshot_id, state
from components.validate.run import ValidateSummary, run
from tests.support.snapshots import Images, Labels, brighter, digits, with_blanks, without_label, write_snapshot

NAMES = tuple("0123456789")


class Place:
    """A history, and datasets that are validated beside it."""

    def __init__(self, root: Path) -> None:
        self.root, self.history = root, root / "history"

    def validate(
        self, name: str, images: Images, labels: Labels, names: tuple[str, ...] = NAMES, **fields: Any
    ) -> ValidateSummary:
        """Write a dataset, where there is none of that name yet, and validate it."""
        dataset = self.root / name
        if not dataset.exists():
            write_snapshot(dataset, images, labels, names)
        return run(ValidateConfig(history=str(self.history), **fields), dataset=dataset, out=self.root / f"out-{name}")

    def id(self, name: str) -> str:
        """Return the snapshot id of a dataset."""
        return snapshot_id(read_manifest(self.root / name).digest)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A history with the digits as first snapshot."""
    made = Place(tmp_path)
    made.validate("first", *digits())
    return made


def stopped(place: Place, images: Images, labels: Labels, name: str = "next", **fields: Any) -> str:
    """Validate what must be refused; return the sentence."""
    with pytest.raises(DataRejectedError) as caught:
        place.validate(name, images, labels, **fields)
    assert caught.value.exit_code == 3
    assert not (place.root / f"out-{name}").exists()
    return str(caught.value)


def test_the_first_snapshot_makes_schema_and_history(place: Place) -> None:
    (entry,) = read_accepted(place.history)
    assert (entry.snapshot, entry.against, entry.why) == (place.id("first"), "", "first snapshot")
    assert re.fullmatch("s[0-9a-f]{12}", entry.snapshot)
    assert entry.accepted_by == str(place.root / "out-first")
    schema = text_format.Parse((place.root / "out-first" / "schema.pbtxt").read_text(), schema_pb2.Schema())
    features = {feature.name: feature for feature in schema.feature}
    assert features["image_size"].int_domain.min == features["image_size"].int_domain.max == 8
    assert list(features["label_name"].string_domain.value) == list(NAMES)
    assert features["label_name"].drift_comparator.infinity_norm.threshold == 0.05
    assert features["brightness"].lifecycle_stage == schema_pb2.VALIDATION_DERIVED
    kept = read_manifest(place.history / "snapshots" / entry.snapshot, "snapshot")
    assert kept.files == read_manifest(place.root / "out-first", "validation").files


def test_the_same_images_pass_at_once_and_give_the_same_artifact(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_manifest(place.root / "out-first")
    monkeypatch.setattr(run_module, "tally_dataset", lambda *_: pytest.fail("counted again"))
    summary = place.validate("first", *digits())
    after = read_manifest(place.root / "out-first")
    assert (after.digest, after.counts, after.inputs) == (before.digest, before.counts, before.inputs)
    assert (summary.snapshot, summary.accepted_against, summary.anomalies) == (place.id("first"), "", [])
    assert len(read_accepted(place.history)) == 1
    with pytest.raises(DataRejectedError, match="1437 train images where 2000 are needed"):
        place.validate("first", *digits(), min_train_images=2000)
    with pytest.raises(DataRejectedError, match="The train images are constant"):
        place.validate("first", *digits(), min_deviation=100.0)


def test_what_differs_little_is_accepted_against_the_last(place: Place) -> None:
    images, labels = digits()
    second = place.validate("second", images[:1700], labels[:1700])
    third = place.validate("third", images[20:], labels[20:])
    assert (second.accepted_against, third.accepted_against) == (place.id("first"), place.id("second"))
    assert second.anomalies == third.anomalies == []
    assert [entry.why for entry in read_accepted(place.history)] == ["first snapshot", "no error", "no error"]
    comparison = json.loads((place.root / "out-second" / "comparison.json").read_text())
    assert comparison["images"] == {"now": 1700, "before": 1797}
    assert sum(comparison["histograms"]["brightness"]["before"]) == 1797


def test_the_schema_is_held_while_ranges_grow(place: Place) -> None:
    images, labels = digits()
    narrow = np.minimum(images, 200)
    other = Place(place.root / "other")
    other.root.mkdir()
    other.validate("narrow", narrow, labels)
    wide = other.validate("wide", images, labels, max_histogram_drift=1.0, warn_histogram_drift=1.0, false_alarms=1e-12)
    assert {anomaly["text"] for anomaly in wide.anomalies if anomaly["feature"] == "dataset"} == {
        "grey levels go from 0 to 255, beyond the schema's range 0 to 200"
    }
    assert "max: 200" in (other.root / "out-wide" / "schema.pbtxt").read_text()


BREAKS = {
    "a class is gone": (lambda i, x: without_label(i, x, 3), r"no image has label '3' of the schema"),
    "a class is new": (lambda i, x: (i, np.where(x == 3, 10, x)), r"label '10', which the schema does not hold"),
    "images of another size": (lambda i, x: (i.repeat(2, 1).repeat(2, 2), x), r"images are 16×16×1, the schema holds 8×8×1"),
    "images of other channels": (lambda i, x: (i.repeat(3, 3), x), r"images are 8×8×3, the schema holds 8×8×1"),
    "the range collapses": (lambda i, x: (i // 128, x), r"from 0 to 1, only 0\.4% of the schema's range 0 to 255"),
    "too few images": (lambda i, x: (i[:800], x[:800]), r"there are 800 images where there were 1,797, 44\.5% of them"),
    "brightness": (lambda i, x: (brighter(i), x), r"the brightness histogram moved by 0\.\d{4} bits"),
    "blank images": (lambda i, x: (with_blanks(i), x), r"near-blank images went from 0\.00% to 1\.00%"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_what_breaks_the_schema_or_drifts_is_refused_with_the_way_to_accept_it(what: str, place: Place) -> None:
    change, said = BREAKS[what]
    images, labels = change(*digits())
    sentence = stopped(place, images, labels, min_deviation=0.0)
    now, first = place.id("next"), place.id("first")
    assert sentence.startswith(f"Snapshot {now} differs from the accepted snapshot {first}: ")
    assert re.search(said, sentence)
    assert sentence.endswith(f" Mend the source, or accept it knowingly: --set validate.accept={now}")
    assert [entry.snapshot for entry in read_accepted(place.history)] == [first]
    refused = place.history / "refused" / now
    assert read_manifest(refused, "validation").inputs == {"dataset": read_manifest(place.root / "next").digest}
    written = text_format.Parse((refused / "anomalies.pbtxt").read_text(), anomalies_pb2.Anomalies())
    reported = [info for info in (*written.anomaly_info.values(), written.dataset_anomaly_info) if info.reason]
    assert max(info.severity for info in reported) == anomalies_pb2.AnomalyInfo.ERROR
    assert len(json.loads((refused / "anomalies.json").read_text())) == sum(len(info.reason) for info in reported)
    summary = place.validate("next", images, labels, min_deviation=0.0, accept=now)
    assert (summary.snapshot, summary.accepted_against) == (now, first)
    assert any(anomaly["severity"] == "error" for anomaly in summary.anomalies)
    entry = read_accepted(place.history)[-1]
    assert (entry.why, entry.config["accept"], entry.accepted_by) == ("validate.accept", now, str(place.root / "out-next"))
    assert entry.anomalies
    assert not refused.exists()
    place.validate("next", images, labels, min_deviation=0.0)  # accepted once is accepted


def test_an_accepted_break_is_the_schema_from_then_on(place: Place) -> None:
    images, labels = without_label(*digits(), 3)
    stopped(place, images, labels)
    place.validate("next", images, labels, accept=place.id("next"))
    place.validate("later", images[10:], labels[10:])
    assert "label '3', which the schema does not hold" in stopped(place, digits()[0][5:], digits()[1][5:], name="whole")


def test_an_accept_of_another_snapshot_does_not_help(place: Place) -> None:
    sentence = stopped(place, brighter(digits()[0]), digits()[1], accept="s0123456789ab")
    assert "validate.accept names s0123456789ab, which is not this snapshot." in sentence
    place.validate("fit", digits()[0][5:], digits()[1][5:], accept="s0123456789ab")  # left over in a file, it does no harm


@pytest.mark.parametrize("accept", ["0123456789ab", "s0123", "latest", "sABCDEF012345"])
def test_an_accept_that_is_no_id_is_refused_when_it_is_read(accept: str) -> None:
    with pytest.raises(ValidationError, match="accept"):
        ValidateConfig(accept=accept)


def test_constant_images_cannot_be_accepted(place: Place) -> None:
    images, labels = digits()
    flat = np.full_like(images, 9)
    sentence = stopped(place, flat, labels, name="flat")
    assert sentence.startswith("The train images are constant")
    assert stopped(place, flat, labels, name="flat", accept=place.id("flat")) == sentence


def test_warnings_let_a_run_go_on(place: Place) -> None:
    images, labels = digits()
    relaxed = {"max_histogram_drift": 1.0}
    summary = place.validate("brighter", brighter(images), labels, **relaxed)
    assert {anomaly["severity"] for anomaly in summary.anomalies} == {"warning"}
    assert {anomaly["feature"] for anomaly in summary.anomalies} == {"brightness", "contrast", "channel_0"}


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"warn_label_drift = 0\.2 is more than max_label_drift = 0\.05"):
        ValidateConfig(warn_label_drift=0.2)


def test_without_a_history_nothing_is_compared(tmp_path: Path) -> None:
    for name, images in (("a", digits()[0]), ("b", brighter(digits()[0]))):
        write_snapshot(tmp_path / name, images, digits()[1])
        summary = run(ValidateConfig(), dataset=tmp_path / name, out=tmp_path / f"out-{name}")
        assert (summary.accepted_against, summary.anomalies) == ("", [])


def break_list(history: Path) -> None:
    (history / "accepted.json").write_text("[{]")


def break_schema_of_list(history: Path) -> None:
    (history / "accepted.json").write_text('[{"snapshot": 3}]')


def remove_snapshot(history: Path) -> None:
    shutil.rmtree(history / "snapshots")


def damage_snapshot(history: Path) -> None:
    (file,) = history.glob("snapshots/*/tally-train.json")
    file.write_text(file.read_text()[:-9])


def exchange_snapshot(history: Path) -> None:
    (file,) = history.glob("snapshots/*/manifest.json")
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"inputs": {"dataset": "0" * 64}}))


BROKEN = [
    (break_list, "The history of snapshots .*accepted.json is broken: .*Invalid JSON|is broken: 1 validation error"),
    (break_schema_of_list, "is broken: .* validation errors? for list"),
    (remove_snapshot, "is broken: its snapshot s[0-9a-f]{12} is damaged .*it is not a finished artifact"),
    (damage_snapshot, "is broken: its snapshot s[0-9a-f]{12} is damaged .*tally-train.json does not match its digest"),
    (exchange_snapshot, "is broken: .* is of another dataset"),
]


@pytest.mark.parametrize(("spoil", "said"), BROKEN)
def test_a_broken_history_is_not_taken_for_an_empty_one(spoil: Any, said: str, place: Place) -> None:
    spoil(place.history)
    with pytest.raises(ArtifactError, match=said) as caught:
        place.validate("second", digits()[0][5:], digits()[1][5:])
    assert "Restore it from a backup, or name another validate.history" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("schema.pbtxt", "feature {", "The schema .* cannot be read"),
        ("schema.pbtxt", "", "The schema .* cannot be read: it has no feature 'image_size'"),
        ("tally-eval.json", "{}", "The tallies in .* cannot be read"),
        ("statistics.json", '{"train": {}}', "The statistics in .* cannot be read"),
    ],
)
def test_a_snapshot_of_another_form_is_named(name: str, content: str, said: str, place: Place) -> None:
    from components.common.artifacts import MANIFEST, file_entries

    (folder,) = (place.history / "snapshots").iterdir()
    (folder / name).write_text(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    entries = {file: entry.model_dump() for file, entry in file_entries(folder).items()}
    (folder / MANIFEST).write_text(json.dumps(manifest | {"files": entries}))
    with pytest.raises(ArtifactError, match=said):
        place.validate("second", digits()[0][5:], digits()[1][5:])


def test_a_lock_that_another_holds_is_waited_for_and_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "LOCK_SECONDS", 0.2)
    with (
        filelock.FileLock(place.history / ".lock"),
        pytest.raises(ArtifactError, match=r"Another validation holds .*\.lock and did not release it within 0 s"),
    ):
        place.validate("second", digits()[0][5:], digits()[1][5:])


def test_a_history_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "data", *digits())
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"is broken: .*Not a directory"):
        run(ValidateConfig(history=str(tmp_path / "file" / "in")), dataset=tmp_path / "data", out=tmp_path / "out")
    (tmp_path / "history" / ".lock").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"Cannot lock .*Name a writable folder with validate\.history"):
        run(ValidateConfig(history=str(tmp_path / "history")), dataset=tmp_path / "data", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_state_is_what_a_dataset_was_compared_with(place: Place) -> None:
    images, labels = digits()
    first = read_manifest(place.root / "first").digest
    identity, against = state(place.history, "")
    assert against == place.id("first")
    assert state(place.history, first) == [identity, ""]
    place.validate("second", images[5:], labels[5:])
    second = read_manifest(place.root / "second").digest
    assert state(place.history, second) == [identity, place.id("first")]
    assert state(place.history, "") == [identity, place.id("second")]
    assert find(read_accepted(place.history), first) is not None
    shutil.rmtree(place.history)
    fresh, nothing = state(place.history, first)
    assert (fresh != identity, nothing) == (True, "")
    (place.history / "history.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"history\.json is broken"):
        state(place.history, first)


def test_a_snapshot_that_another_run_accepted_meanwhile_is_accepted_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = digits()[0][5:], digits()[1][5:]
    counting = run_module.tally_dataset
    place.validate("scratch", images, labels)
    shutil.rmtree(place.history)
    place.validate("first", *digits())

    def slow(*arguments: Any) -> Any:
        monkeypatch.setattr(run_module, "tally_dataset", counting)
        place.validate("scratch", images, labels)
        return counting(*arguments)

    monkeypatch.setattr(run_module, "tally_dataset", slow)
    summary = place.validate("second", images, labels)
    assert place.id("second") == place.id("scratch")
    assert [entry.snapshot for entry in read_accepted(place.history)] == [place.id("first"), place.id("second")]
    assert summary.accepted_against == place.id("first")
    both = [read_manifest(place.root / f"out-{name}").digest for name in ("scratch", "second")]
    assert both[0] == both[1]


def test_a_run_that_ends_between_snapshot_and_list_is_done_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = digits()[0][5:], digits()[1][5:]

    def full_disk(*_: object) -> None:
        raise ArtifactError("Cannot write: no space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(history_module, "write_text", full_disk)
        with pytest.raises(ArtifactError, match="no space left"):
            place.validate("second", images, labels)
    assert [entry.snapshot for entry in read_accepted(place.history)] == [place.id("first")]
    assert not (place.root / "out-second").exists()
    leftover = place.history / "snapshots" / ".s0123456789ab.01234567.tmp"
    leftover.mkdir()  # of a process that was killed
    place.validate("second", images, labels)
    assert [entry.snapshot for entry in read_accepted(place.history)] == [place.id("first"), place.id("second")]
    assert not leftover.exists()


def test_what_only_the_next_snapshot_needs_is_not_kept_of_a_refused_one(place: Place) -> None:
    stopped(place, brighter(digits()[0]), digits()[1])
    kept = {file.name for file in (place.history / "refused" / place.id("next")).iterdir()}
    assert {"comparison.json", "anomalies.json", "worst.json", "statistics.json"} < kept
    assert not {"sample.tfrecord", "tally-train.json", "tally-eval.json"} & kept
