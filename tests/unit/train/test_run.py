"""The train step on real digits: its files, resuming, and errors."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError, DeviceError, InterruptedStepError, TrainingDivergedError
from components.common.journal import STEPS, ArtifactRef, StepRecord, write_entry
from components.common.store import Folder, store_at
from components.report.description import RunDescription
from components.report.live import Watched
from components.train import loop, step
from components.train import run as train_run
from components.train.config import TrainConfig, training_key
from components.train.devices import host_call, strategy
from components.train.networks import ImageShape
from components.train.progress import MOST_LINES, PROGRESS, MetricsLine, Progress, ProgressFile
from components.train.saving import checkpoint
from components.train.saving.folder import TrainingFolder
from tests.support.datasets.training_data import write_digits

TINY: dict[str, Any] = {
    "rounds": 12, "rounds_per_call": 2, "log_every_rounds": 4, "checkpoint_every_rounds": 4, "sample_every_rounds": 6,
    "global_batch_size": 8, "n_critic": 2, "latents": 8, "generator_channels": 4, "critic_channels": 4,
    "precision": "float32",  # "auto" measures the machine, and could differ between two trainings that a test compares
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_digits(tmp_path_factory.mktemp("data"))


def train(data: tuple[Path, Path], folder: Path, **changes: Any) -> train_run.TrainSummary:
    config = TrainConfig(**{**TINY, **changes})
    return train_run.run(config, dataset=data[0], validation=data[1], work_dir=folder / "work", out=folder / "model")


@pytest.fixture(scope="module")
def uninterrupted(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(data, folder)
    return folder


def final_arrays(folder: Path) -> dict[str, np.ndarray]:
    (training,) = (folder / "work" / "checkpoints").iterdir()
    last = checkpoint.load_latest(Folder(training), TrainConfig(**TINY), ImageShape(8, 1))
    assert last is not None
    assert last.progress.round == 12
    return last.arrays


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "model" / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_same_training(one: Path, other: Path) -> None:
    expected, got = final_arrays(one), final_arrays(other)
    assert expected.keys() == got.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert metrics(other) == metrics(one)
    grids = sorted(path.name for path in (one / "model" / "samples").iterdir())
    assert grids == ["real.png", "round-00000000.png", "round-00000006.png", "round-00000012.png"]
    for name in grids:
        assert (other / "model" / "samples" / name).read_bytes() == (one / "model" / "samples" / name).read_bytes()


def test_files_of_the_model(uninterrupted: Path) -> None:
    manifest = read_manifest(uninterrupted / "model", "model")
    assert manifest.counts == {"rounds": 12, "images_seen": 12 * 2 * 8}
    assert manifest.details == {
        "image_size": 8, "channels": 1, "latents": 8, "classes": 0, "exported_round": 12, "started_from": "",
    }  # fmt: skip
    assert [line["round"] for line in metrics(uninterrupted)] == [4, 8, 12]
    assert set(metrics(uninterrupted)[0]) == {
        "round", "images_seen", "critic_loss", "wasserstein_gap", "penalty", "critic_grad_norm", "generator_loss",
        "generator_grad_norm",
    }  # fmt: skip
    assert any((uninterrupted / "model" / "tensorboard").glob("events.out.tfevents.*"))


def test_signatures_of_the_saved_model(uninterrupted: Path) -> None:
    model = tf.saved_model.load(str(uninterrupted / "model" / "saved_model"))
    generate = model.signatures["generate"]
    images = generate(seed=tf.constant(3, tf.int64), count=tf.constant(5))["images"]
    assert images.shape == (5, 8, 8, 1)
    assert images.dtype == tf.uint8
    again = generate(seed=tf.constant(3, tf.int64), count=tf.constant(5))["images"]
    np.testing.assert_array_equal(images, again)
    latents = tf.random.stateless_normal([64, 8], [1, 2])
    drawn = model.signatures["generate_from_latents"](latents=latents)["images"]
    assert drawn.shape == (64, 8, 8, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_checkpoint_from_which_the_next_run_resumes(
    number: signal.Signals, data: Any, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lines = loop.run_call, []

    def signalled(*args: Any) -> MetricsLine:
        if len(lines) == 2:
            os.kill(os.getpid(), number)
        lines.append(real(*args))
        return lines[-1]

    monkeypatch.setattr(loop, "run_call", signalled)
    with pytest.raises(InterruptedStepError, match=f"stopped by {number.name} after round 6 of 12"):
        train(data, tmp_path)
    assert len(lines) == 3, "the loop stops after the call during which the signal came"
    assert not (tmp_path / "model").exists()
    monkeypatch.setattr(loop, "run_call", real)
    assert train(data, tmp_path).resumed_from_round == 6
    assert_same_training(uninterrupted, tmp_path)


def test_a_killed_training_resumes_from_the_last_checkpoint(
    data: Any, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.run_call

    def fail(*args: Any) -> MetricsLine:
        if args[-1] == 10:
            raise MemoryError
        return real(*args)

    monkeypatch.setattr(loop, "run_call", fail)
    with pytest.raises(MemoryError):
        train(data, tmp_path)
    monkeypatch.setattr(loop, "run_call", real)
    assert train(data, tmp_path).resumed_from_round == 8
    assert_same_training(uninterrupted, tmp_path)


def test_progress_is_written_while_it_trains_and_shown_by_watch(data: Any, uninterrupted: Path) -> None:
    (training,) = (uninterrupted / "work" / "checkpoints").iterdir()
    progress = ProgressFile.model_validate_json((training / PROGRESS).read_bytes())
    assert (progress.round, progress.rounds, progress.seconds_left) == (12, 12, 0.0)
    assert progress.rounds_per_second > 0
    model = uninterrupted / "model"
    assert checkpoint.json_lines(progress.metrics) == (model / "metrics.jsonl").read_bytes()
    assert checkpoint.json_lines(progress.scores) == (model / "scores.jsonl").read_bytes()
    work, key, started = uninterrupted / "work", "0" * 64, "2026-01-01T00:00:00.000+00:00"
    ref = ArtifactRef(path=str(data[0]), digest=read_manifest(data[0]).digest)
    for name, state, made in (("ingest", "succeeded", ref), ("train", "running", None)):
        write_entry(work, StepRecord(step=name, key=key, state=state, pid=1, started_at=started, artifact=made))  # type: ignore[arg-type]
    config = {"train": TrainConfig(**TINY).model_dump(mode="json")}
    run = RunDescription(
        run_id="r", started_at=started, config=config, command="", work_dir=str(work), keys=dict.fromkeys(STEPS, key)
    )
    page = Watched(run, store_at(uninterrupted / "none"), lambda: "running", "").page()
    assert page.verdict.title == "Training: 100\N{NO-BREAK SPACE}%"
    assert page.verdict.reason.startswith("Round 12 of 12 at ")
    assert [figure.caption for figure in page.training.samples] == ["Round 0", "Round 6", "Round 12"]
    assert page.training.real
    assert [chart.title for chart in page.training.charts][:2] == ["Wasserstein gap", "Gradient penalty"]


@pytest.mark.parametrize("lines", [0, 1, MOST_LINES, MOST_LINES + 1, 3 * MOST_LINES, 5 * MOST_LINES - 1])
def test_progress_of_a_long_training_stays_small(lines: int) -> None:
    line = MetricsLine(round=1, images_seen=1, seconds=1.0, **dict.fromkeys(step.METRICS, 0.0))
    progress = Progress(round=lines, log=[line.model_copy(update={"round": at + 1}) for at in range(lines)])
    rounds = [each.round for each in progress.file(lines, 1.0).metrics]
    assert min(lines, MOST_LINES // 2) <= len(rounds) <= MOST_LINES
    assert rounds[-1:] == [lines] * bool(lines)


def test_progress_is_written_seldom_and_may_fail(tmp_path: Path) -> None:
    folder = TrainingFolder(Folder(tmp_path), tmp_path, TrainConfig(**TINY), ImageShape(8, 1), lease=None)  # type: ignore[arg-type]

    def written(rounds: int, *, last: bool = False) -> int:
        folder.write_progress(Progress(round=rounds), 9, 1.0, last=last)
        return ProgressFile.model_validate_json((tmp_path / PROGRESS).read_bytes()).round

    assert [written(1), written(2), written(3, last=True)] == [1, 1, 3]
    (tmp_path / PROGRESS).unlink()
    (tmp_path / PROGRESS / "in-the-way").mkdir(parents=True)
    folder.write_progress(Progress(round=4), 9, 1.0, last=True)
    assert [file.name for file in tmp_path.iterdir()] == [PROGRESS]


def test_checkpoints_are_written_by_time(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the limit for their share of the time, a checkpoint is due after every host call of two rounds."""
    monkeypatch.setattr(loop, "SAVING_SHARE", float("inf"))
    often = {"checkpoint_every_seconds": 1e-9, "keep_checkpoints": 10}
    train(data, tmp_path, **often)
    (training,) = (tmp_path / "work" / "checkpoints").iterdir()
    assert [path.name[-2:] for path in sorted(training.glob("round-*"))] == ["02", "04", "06", "08", "10", "12"]


@pytest.mark.parametrize(
    ("every", "save_seconds", "due_after"), [(60.0, 0.1, 60.0), (60.0, 2.0, 200.0), (0.0, 0.1, None), (0.5, 0.1, 10.0)]
)
def test_saving_by_time_takes_at_most_one_hundredth(every: float, save_seconds: float, due_after: float | None) -> None:
    fields = dict.fromkeys([each.name for each in dataclasses.fields(loop.Training)], None)
    config = TrainConfig(checkpoint_every_seconds=every)
    training = loop.Training(**fields | {"config": config, "saved_at": 1000.0, "save_seconds": save_seconds})  # type: ignore[arg-type]
    for passed in (0.4, 9.9, 10.1, 59.0, 61.0, 199.0, 201.0):
        assert loop.save_is_due(training, 1000.0 + passed) == (due_after is not None and passed >= due_after)


def test_training_resumes_from_the_checkpoint_before_a_damaged_one(
    data: Any, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(data, tmp_path)
    (training,) = (tmp_path / "work" / "checkpoints").iterdir()
    state = training / "round-00000012" / "state.npz"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    assert train(data, tmp_path).resumed_from_round == 8
    warning = "» Checkpoint round-00000012 is damaged (state.npz does not match its digest); loading round-00000008 instead\n"
    assert warning in capsys.readouterr().out
    assert_same_training(uninterrupted, tmp_path)


def test_a_finished_training_is_not_repeated(data: Any, uninterrupted: Path, tmp_path: Path) -> None:
    config = TrainConfig(**TINY)
    places = {"dataset": data[0], "validation": data[1], "work_dir": uninterrupted / "work"}
    summary = train_run.run(config, **places, out=tmp_path / "model")
    assert summary.resumed_from_round == 12
    assert summary.images_seen == 192


def test_the_key_of_a_training_depends_on_data_and_config() -> None:
    config = TrainConfig(**TINY)
    key = training_key(config, "a")
    assert key != training_key(config, "b")
    assert key != training_key(config.model_copy(update={"seed": 1}), "a")
    assert key == training_key(config.model_copy(update={"devices": "cpu:2"}), "a")


def test_two_replicas_resume_a_training_of_one(data: Any, uninterrupted: Path, tmp_path: Path) -> None:
    config = TrainConfig(**{**TINY, "devices": "cpu:2"})
    places = {"dataset": data[0], "validation": data[1], "work_dir": uninterrupted / "work"}
    assert train_run.run(config, **places, out=tmp_path / "model").replicas == 2


def broken_lines(folder: Path, message: str) -> list[dict[str, Any]]:
    (training,) = (folder / "work" / "checkpoints").iterdir()
    assert message.endswith(
        f"The metrics of these rounds are in {training / 'broken.jsonl'}. Lower train.critic_learning_rate and "
        "train.generator_learning_rate, or raise train.penalty_weight."
    )
    return [json.loads(line) for line in (training / "broken.jsonl").read_text().splitlines()]


def test_a_diverging_training_stops_and_keeps_the_good_checkpoint(data: Any, tmp_path: Path) -> None:
    diverges = {"optimizer": "sgd", "critic_learning_rate": 0.1, "rounds": 40, "checkpoint_every_rounds": 2}
    with pytest.raises(TrainingDivergedError) as caught:
        train(data, tmp_path, **diverges)
    (training,) = (tmp_path / "work" / "checkpoints").iterdir()
    kept = max(training.glob("round-*"))
    read_manifest(kept, "checkpoint")
    good, message = int(kept.name.removeprefix("round-")), str(caught.value)
    named = re.search(r"diverged between round (\d+) and round (\d+): (\w+) is (nan|inf|-inf) in round (\d+)\.", message)
    assert named is not None, message
    assert (int(named[1]), int(named[2])) == (good, good + 2)
    assert f"The last good checkpoint is {kept}." in message
    *lines, variables = broken_lines(tmp_path, message)
    assert [line["round"] for line in lines] == [good + 1, good + 2]
    assert lines[int(named[5]) - good - 1][named[3]] == named[4], "the line of this round has the value"
    assert variables["variables_not_finite"]
    assert not (tmp_path / "model").exists()
    assert caught.value.exit_code == 1


def test_an_infinite_weight_stops_the_training_although_metrics_are_finite(data: Any, tmp_path: Path) -> None:
    # Without penalty and with large steps, the critic has large slopes, so the generator's step overflows float32.
    diverges = {"optimizer": "sgd", "critic_learning_rate": 3.0, "penalty_weight": 0.0, "generator_learning_rate": 3e38}
    with pytest.raises(TrainingDivergedError) as caught:
        train(data, tmp_path, **diverges, rounds_per_call=1)
    message = str(caught.value)
    assert re.search(r"diverged between round 0 and round 1: generator/\S+ is not finite \(first of \d+", message), message
    assert "There is no checkpoint yet." in message
    metrics, variables = broken_lines(tmp_path, message)
    assert all(np.isfinite(metrics[name]) for name in step.METRICS)
    assert {name.split("/")[0] for name in variables["variables_not_finite"]} == {"generator", "ema_generator"}


@pytest.mark.parametrize("devices", ["cpu:1", "cpu:2"])
def test_a_weight_that_is_not_finite_is_named(devices: str) -> None:
    config = TrainConfig(**{**TINY, "devices": devices})
    replicas = strategy.make_strategy(config)
    state = step.make_state(ImageShape(8, 1), config, replicas)
    check = host_call.make_weights_check(state, replicas)
    assert check() == []
    *_, slot = state.critic_optimizer.variables
    values = slot.numpy()
    values.flat[-1] = -np.inf
    slot.assign(values)
    (name,) = check()
    assert name.startswith("critic_optimizer/")
    assert name.endswith(f"/{slot.name}")


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    broken = checkpoint.Checkpoint({"critic/bias": np.array([1.0, np.inf])}, Progress(3))
    with pytest.raises(TrainingDivergedError, match="critic/bias is not finite"):
        checkpoint.save(Folder(tmp_path), TrainConfig(), ImageShape(8, 1), broken)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"seed": 2}, "train.seed = 0, not 2"), ({"latents": 9}, "train.latents = 8, not 9")],
)
def test_a_checkpoint_copied_from_another_training_is_refused(
    changes: dict[str, Any], named: str, data: Any, uninterrupted: Path, tmp_path: Path
) -> None:
    (theirs,) = (uninterrupted / "work" / "checkpoints").iterdir()
    key = training_key(TrainConfig(**{**TINY, **changes}), read_manifest(data[0]).digest)
    shutil.copytree(theirs / "round-00000012", tmp_path / "work" / "checkpoints" / key / "round-00000012")
    with pytest.raises(
        ArtifactError, match=f"round-00000012 belongs to another training: it was made with {named}. Remove"
    ) as caught:
        train(data, tmp_path, **changes)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_with_other_variables_is_refused(data: Any, uninterrupted: Path, tmp_path: Path) -> None:
    (theirs,) = (uninterrupted / "work" / "checkpoints").iterdir()
    training = tmp_path / "work" / "checkpoints" / theirs.name
    config, shape = TrainConfig(**TINY), ImageShape(8, 1)
    last = checkpoint.load_latest(Folder(theirs), config, shape)
    assert last is not None
    name = min(last.arrays)
    last.arrays[name] = last.arrays[name][..., :2]
    checkpoint.save(Folder(training), config, shape, last)
    with pytest.raises(
        checkpoint.ForeignCheckpointError, match=f"round-00000012 belongs to another training: it has {name} as"
    ):
        train(data, tmp_path)


def test_unfinished_files_are_removed_by_the_holder_of_the_lease(
    data: Any, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(uninterrupted / "work", tmp_path / "work")
    (training,) = (tmp_path / "work" / "checkpoints").iterdir()
    left = [
        training / ".round-00000012.0123abcd.tmp",  # of an earlier release
        training / "round-00000016",
    ]
    for folder in left:
        folder.mkdir()
        (folder / "state.npz").write_bytes(b"half")
    left.append(training / "samples" / ".round-00000012.png.0123abcd.tmp")
    left[-1].write_bytes(b"half")
    monkeypatch.setattr(train_run, "LEASE_SECONDS", 0.2)
    with train_run._leased(Folder(training)), pytest.raises(ArtifactError, match="Another process that trains this"):
        train(data, tmp_path)
    assert all(path.exists() for path in left)
    assert train(data, tmp_path).resumed_from_round == 12
    assert not any(path.exists() for path in left)
    assert_same_training(uninterrupted, tmp_path)


def test_a_training_in_a_bucket_resumes_on_another_machine(data: Any, uninterrupted: Path, tmp_path: Path) -> None:
    """Its last checkpoint was not uploaded as a whole, so it does not exist; the files of the first machine are gone."""
    work_dir = f"memory://{tmp_path}/work"
    places = {"dataset": data[0], "validation": data[1], "work_dir": work_dir}
    assert train_run.run(TrainConfig(**TINY), **places, out=tmp_path / "first").resumed_from_round is None
    (key,) = store_at(work_dir, "checkpoints").names()
    store = store_at(work_dir, "checkpoints", key)
    assert [name for name in sorted(store.names()) if "round" in name] == ["round-00000008", "round-00000012"]
    store.delete("round-00000012/manifest.json")
    store.write("round-00000016/state.npz", [b"half"])
    summary = train_run.run(TrainConfig(**TINY), **places, out=tmp_path / "model")
    assert summary.resumed_from_round == 8
    assert [name for name in sorted(store.names()) if "round" in name] == ["round-00000008", "round-00000012"]
    last = checkpoint.load_latest(store, TrainConfig(**TINY), ImageShape(8, 1))
    assert last is not None
    for name, array in final_arrays(uninterrupted).items():
        np.testing.assert_array_equal(last.arrays[name], array, err_msg=name)
    grids = {file.name: file.read_bytes() for file in (tmp_path / "model" / "samples").iterdir()}
    assert grids == {file.name: file.read_bytes() for file in (uninterrupted / "model" / "samples").iterdir()}
    assert events_of(tmp_path / "model") == events_of(uninterrupted / "model")
    store.remove()


def events_of(model: Path) -> set[tuple[str, int, float | None]]:
    """Return name, round and value of TensorBoard's numbers, and name and round of its pictures."""
    return {
        (value.tag, event.step, tf.make_ndarray(value.tensor).item() if value.tensor.dtype == 1 else None)
        for file in (model / "tensorboard").iterdir()
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }


def test_a_second_process_waits_for_the_lease_then_fails(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = tmp_path / "training"
    monkeypatch.setattr(train_run, "LEASE_SECONDS", 0.2)
    who = rf"Another process that trains this configuration \(process {os.getpid()} on \S+\)"
    message = rf"{who} holds .*/training/lease and did not release it within 0 s"
    with train_run._leased(Folder(training)), pytest.raises(ArtifactError, match=message), train_run._leased(Folder(training)):
        pass


def test_old_checkpoints_are_deleted(uninterrupted: Path) -> None:
    (training,) = (uninterrupted / "work" / "checkpoints").iterdir()
    assert sorted(path.name for path in training.glob("round-*")) == ["round-00000008", "round-00000012"]


def test_error_without_a_tpu() -> None:
    with pytest.raises(DeviceError) as caught:
        strategy.make_strategy(TrainConfig(devices="tpu"))
    assert "there is no TPU on this machine" in str(caught.value)
    assert "Run on a TPU VM" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_error_without_a_gpu() -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeviceError, match="no NVIDIA driver on this machine"):
        strategy.make_strategy(TrainConfig(devices="gpu"))
