"""Checkpoints: damaged ones, those of other trainings, and a full disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.common import artifacts
from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError, TrainingDivergedError
from components.common.images import write_png
from components.common.store import Folder
from components.train import loop
from components.train.config import TrainConfig, training_key
from components.train.networks import ImageShape
from components.train.progress import MetricsLine, Progress
from components.train.saving import checkpoint
from components.train.saving.tensorboard import Events, vertex_folders, written_by_tensorflow

CONFIG = TrainConfig(keep_checkpoints=3)
SHAPE = ImageShape(8, 1)
KEY = training_key(CONFIG, "data")


def made(rounds: int) -> checkpoint.Checkpoint:
    arrays = {"critic/000/kernel": np.full([50, 3], rounds, np.float32), "critic_optimizer/000/iteration": np.int64(rounds)}
    values = dict.fromkeys([name for name in MetricsLine.model_fields if name != "round"], 1.5) | {"images_seen": 64}
    log = [MetricsLine.model_validate({"round": rounds, **values})]
    return checkpoint.Checkpoint({name: np.asarray(array) for name, array in arrays.items()}, Progress(rounds, log))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a training with the checkpoints of rounds 4, 8 and 12."""
    for rounds in (4, 8, 12):
        checkpoint.save(Folder(tmp_path / KEY), CONFIG, SHAPE, made(rounds))
    return tmp_path / KEY


def load(folder: Path) -> checkpoint.Checkpoint | None:
    return checkpoint.load_latest(Folder(folder), CONFIG, SHAPE)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def truncate(path: Path) -> None:
    content = (path / "state.npz").read_bytes()
    (path / "state.npz").write_bytes(content[: len(content) // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / "state.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "state.npz").write_bytes(content)


def edit_manifest(path: Path, **fields: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | fields))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, r"state\.npz does not match its digest"),
    "bit flipped": (flip_a_bit, r"state\.npz does not match its digest"),
    "empty": (lambda path: (path / "state.npz").write_bytes(b""), r"state\.npz does not match its digest"),
    "a missing file": (lambda path: (path / "metrics.jsonl").unlink(), r"metrics\.jsonl is missing"),
    "half a manifest": (
        lambda path: (path / "manifest.json").write_text('{"schema_version": 1'),
        r"manifest\.json cannot be read: 1 validation error for Manifest",
    ),
    "another schema": (lambda path: edit_manifest(path, schema_version=9), r"has schema version 9, this program reads 1"),
    "another kind": (lambda path: edit_manifest(path, kind="model"), r"is a model, a checkpoint is needed"),
    "another round": (lambda path: edit_manifest(path, counts={"round": 7}), r"its manifest says round 7"),
    "files unlisted": (
        lambda path: (edit_manifest(path, files={}), (path / "state.npz").unlink()),
        r"No such file or directory",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_skipped(damage: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage_it, reason = DAMAGE[damage]
    damage_it(folder / "round-00000012")
    loaded = load(folder)
    assert loaded is not None
    assert loaded.progress.round == 8
    np.testing.assert_array_equal(loaded.arrays["critic/000/kernel"], made(8).arrays["critic/000/kernel"])
    assert [line.round for line in loaded.progress.log] == [8]
    assert printed(capsys, rf"Checkpoint round-00000012 is damaged \({reason}\); loading round-00000008 instead")


@pytest.mark.parametrize(
    "damage", [lambda path: (path / "manifest.json").unlink(), lambda path: (shutil.rmtree(path), path.write_text("x"))]
)
def test_a_checkpoint_without_a_manifest_does_not_exist(damage: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(folder / "round-00000012")
    loaded = load(folder)
    assert loaded is not None
    assert loaded.progress.round == 8
    assert printed(capsys)


def printed(capsys: pytest.CaptureFixture[str], *patterns: str) -> bool:
    """Return whether exactly these lines were printed, in this order."""
    lines = capsys.readouterr().out.splitlines()
    return len(lines) == len(patterns) and all(map(re.fullmatch, [f"» {pattern}" for pattern in patterns], lines))


def test_two_damaged_checkpoints_are_skipped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truncate(folder / "round-00000012")
    flip_a_bit(folder / "round-00000008")
    loaded = load(folder)
    assert loaded is not None
    assert loaded.progress.round == 4
    because = r"is damaged \(state\.npz does not match its digest\); loading round-00000004 instead"
    assert printed(capsys, f"Checkpoint round-00000012 {because}", f"Checkpoint round-00000008 {because}")


def test_training_starts_from_scratch_if_all_checkpoints_are_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in folder.iterdir():
        truncate(path)
    assert load(folder) is None
    because = (
        r"is damaged \(state\.npz does not match its digest\); "
        "there is no intact one before it, so training starts from scratch"
    )
    assert printed(capsys, *[f"Checkpoint {name} {because}" for name in reversed(names(folder))])


def test_an_intact_checkpoint_is_not_deleted_for_a_damaged_later_one(folder: Path) -> None:
    truncate(folder / "round-00000012")
    one = CONFIG.model_copy(update={"keep_checkpoints": 1})
    checkpoint.save(Folder(folder), one, SHAPE, made(10))
    assert names(folder) == ["round-00000010", "round-00000012"]
    loaded = load(folder)
    assert loaded is not None
    assert loaded.progress.round == 10
    checkpoint.save(Folder(folder), one, SHAPE, made(12))
    assert names(folder) == ["round-00000012"]
    read_manifest(folder / "round-00000012", "checkpoint")


def test_an_unreadable_disk_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(artifacts, "file_sha256", fails)
    with pytest.raises(ArtifactError, match=r"round-00000012 cannot be read: Input/output error\. Repair the disk, or remove"):
        load(folder)


@pytest.mark.parametrize(
    ("config", "shape", "differences"),
    [
        ({"seed": 1}, SHAPE, "it was made with train.seed = 0, not 1."),
        (
            {"seed": 1, "precision": "bfloat16"},
            SHAPE,
            'it was made with train.precision = "auto", not "bfloat16"; it was made with train.seed = 0, not 1.',
        ),
        ({}, ImageShape(28, 1), "it was made with image_size = 8, not 28."),
        ({}, ImageShape(8, 3), "it was made with channels = 1, not 3."),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_with_the_differences(
    config: dict[str, Any], shape: ImageShape, differences: str, folder: Path
) -> None:
    last = folder / "round-00000012"
    with pytest.raises(checkpoint.ForeignCheckpointError) as caught:
        checkpoint.load_latest(Folder(folder), CONFIG.model_copy(update=config), shape)
    assert str(caught.value) == (
        f"Checkpoint {last} belongs to another training: {differences} Remove {last}, or restore the settings that it was made"
        " with."
    )
    assert caught.value.exit_code == 1


def test_a_checkpoint_of_another_dataset_is_refused(folder: Path) -> None:
    folder = folder.rename(folder.with_name(training_key(CONFIG, "other data")))
    with pytest.raises(checkpoint.ForeignCheckpointError, match="it was made with another dataset"):
        load(folder)


def test_a_checkpoint_from_before_noise_was_the_same_on_all_devices_is_refused(folder: Path) -> None:
    path = folder / "round-00000012"
    details = {name: value for name, value in read_manifest(path).details.items() if name != "noise"}
    edit_manifest(path, details=details)
    with pytest.raises(checkpoint.ForeignCheckpointError, match="it was made with noise = philox, not threefry-2x32"):
        load(folder)


def test_a_setting_that_exists_in_one_version_only_is_a_difference(folder: Path) -> None:
    path = folder / "round-00000012"
    edit_manifest(path, config={**read_manifest(path).config, "spectral_norm": True})
    with pytest.raises(checkpoint.ForeignCheckpointError, match=r"train\.spectral_norm = true, not unset"):
        load(folder)


def test_some_settings_may_change_between_attempts(folder: Path) -> None:
    other = CONFIG.model_copy(update={"devices": "cpu:2", "keep_checkpoints": 1, "checkpoint_every_rounds": 50})
    assert checkpoint.load_latest(Folder(folder), other, SHAPE) is not None


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"b": None}, r"it lacks b\."),
        ({"d": np.zeros(2, np.float32)}, r"it has d, which this training lacks\."),
        ({"a": np.zeros([2, 3], np.float32)}, r"it has a as \['float32', 2, 3\], not \['float32', 2, 2\]\."),
        ({"a": np.zeros([2, 2], np.float64)}, r"it has a as \['float64', 2, 2\]"),
        (
            {"a": None, "b": None, "c": None, "d": np.zeros(2)},
            r"lacks a; it lacks b; it lacks c; it differs in 1 more variables\.",
        ),
    ],
)
def test_a_checkpoint_with_other_variables_is_refused(changes: dict[str, Any], difference: str, tmp_path: Path) -> None:
    wanted = {name: np.zeros([2, 2], np.float32) for name in "abc"}
    checkpoint.check_variables(str(tmp_path), wanted, wanted)
    arrays = {name: array for name, array in {**wanted, **changes}.items() if array is not None}
    with pytest.raises(checkpoint.ForeignCheckpointError, match=difference):
        checkpoint.check_variables(str(tmp_path), arrays, wanted)


@contextlib.contextmanager
def files_end_at(size_bytes: int) -> Iterator[None]:
    """Make writes beyond `size_bytes` of a file fail, like a full disk (with EFBIG instead of ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size_bytes", [0, 100, 700])
def test_a_full_disk_leaves_earlier_checkpoints_and_no_partial_files(size_bytes: int, folder: Path) -> None:
    with files_end_at(size_bytes), pytest.raises(ArtifactError) as caught:
        checkpoint.save(Folder(folder), CONFIG, SHAPE, made(16))
    assert str(caught.value) == (
        f"Cannot write {folder / 'round-00000016'}: File too large. "
        "Free space or name a writable folder, for instance --set run.dir=DIR."
    )
    assert names(folder) == ["round-00000004", "round-00000008", "round-00000012"]
    for path in folder.iterdir():
        read_manifest(path, "checkpoint")
    checkpoint.save(Folder(folder), CONFIG, SHAPE, made(16))
    assert names(folder) == ["round-00000008", "round-00000012", "round-00000016"]


def test_error_when_events_and_images_cannot_be_written(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, [64, 64, 1], np.uint8)
    events = Events(tmp_path / "tensorboard")
    with files_end_at(1000):
        events.picture(0, "samples", noise)
        with pytest.raises(ArtifactError, match=r"^Cannot write \S+/tensorboard: File too large\. Free space"):
            events.scalars(0, {"critic_loss": 0.5})
        with pytest.raises(ArtifactError, match=r"^Cannot write \S+/samples/a\.png: File too large\. Free space"):
            write_png(tmp_path / "samples" / "a.png", noise)
    assert names(tmp_path / "samples") == []
    events.close()


def test_events_are_also_written_for_the_platforms_tensorboard(tmp_path: Path) -> None:
    assert vertex_folders({"AIP_TENSORBOARD_LOG_DIR": "gs://b/root/logs"}) == [Path("/gcs/b/root/logs")]
    assert vertex_folders({}) == vertex_folders({"AIP_TENSORBOARD_LOG_DIR": "/local"}) == []
    events = Events(tmp_path / "ours", tmp_path / "theirs")
    events.scalars(3, {"critic_loss": 0.5})
    events.close()
    found = [next((tmp_path / name).iterdir()) for name in ("ours", "theirs")]
    for file in found:
        values = [value for event in tf.compat.v1.train.summary_iterator(str(file)) for value in event.summary.value]
        assert [value.tag for value in values] == ["critic_loss"]


def test_error_when_a_model_cannot_be_written(tmp_path: Path) -> None:
    module = tf.Module()
    module.weights = tf.Variable(tf.zeros([1000]))
    with files_end_at(1000), pytest.raises(ArtifactError) as caught, written_by_tensorflow(tmp_path):
        tf.saved_model.save(module, str(tmp_path / "model"))
    assert "File too large. Free space" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_error_when_a_copy_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for name in "ab":
        (tmp_path / "samples" / name).write_bytes(bytes(5000))

    def copy() -> None:
        with artifacts.new_artifact(tmp_path / "model", "model", config=CONFIG) as model:
            model.copy(tmp_path / "samples")

    with files_end_at(1000), pytest.raises(ArtifactError, match=r"^Cannot write \S+/model: File too large"):
        copy()
    assert names(tmp_path) == ["samples"]


def test_only_temporary_files_are_removed_as_leftovers(tmp_path: Path) -> None:
    kept = [".a.tmp", "a.0123abcd.tmp", ".a.0123abcd.tmpx"]
    for name in [*kept, ".a.0123abcd.tmp"]:
        (tmp_path / name).touch()
    artifacts.remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(kept)


def test_a_checkpoint_is_synced_before_its_manifest_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        order.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        real_sync(descriptor)

    def replace(path: Path, target: Path) -> Path:
        order.append(f"rename to {target.name}")
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    checkpoint.save(Folder(tmp_path / KEY), CONFIG, SHAPE, made(4))
    *files, folder, manifest, appears, again = order
    assert set(files) == {"sync state.npz", "sync best.npz", "sync metrics.jsonl", "sync scores.jsonl"}
    assert (folder, again) == ("sync round-00000004", "sync round-00000004")
    assert manifest.startswith("sync .manifest.json.")
    assert appears == "rename to manifest.json"


def test_evidence_has_the_metrics_of_all_rounds(tmp_path: Path) -> None:
    values = np.ones([3, 6])
    values[1, 2] = np.nan
    values[2] = np.inf
    with pytest.raises(TrainingDivergedError, match=r"between round 6 and round 9: penalty is nan in round 8\.") as caught:
        loop.check_finite(values, 6)
    file = checkpoint.write_evidence(Folder(tmp_path), caught.value.evidence)
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    assert [(line["round"], line["penalty"]) for line in lines] == [(7, 1.0), (8, "nan"), (9, "inf")]
    loop.check_finite(np.ones([3, 6]), 6)
