"""Trainings that start from a model, or from scratch with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.artifacts import file_entries, new_artifact, read_manifest
from components.common.errors import ArtifactError, InterruptedStepError
from components.common.store import Folder
from components.push.config import PushConfig
from components.train import loop
from components.train import run as train_run
from components.train.config import TrainConfig, training_key
from components.train.data.source import open_source
from components.train.devices.strategy import make_strategy
from components.train.networks import ImageShape
from components.train.progress import MetricsLine
from components.train.saving import checkpoint, variables, warm_start
from pipeline.config import load_config
from pipeline.keys import step_keys
from tests.support.datasets.training_data import write_digits
from tests.unit.train.test_run import TINY

SHAPE = ImageShape(8, 1)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of 12 rounds on a hundred digits."""
    folder = tmp_path_factory.mktemp("first")
    train(write_digits(folder), folder)
    return folder


@pytest.fixture(scope="module")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_digits(tmp_path_factory.mktemp("other"), train=120)


def train(data: tuple[Path, Path], folder: Path, start: Path | None = None, **changes: Any) -> train_run.TrainSummary:
    config = TrainConfig(**{**TINY, **changes})
    folders = {"dataset": data[0], "validation": data[1], "work_dir": folder / "work", "out": folder / "model"}
    return train_run.run(config, **folders, start=start)


def arrays_of(folder: Path, config: TrainConfig) -> dict[str, Any]:
    (training,) = (folder / "work" / "checkpoints").iterdir()
    last = checkpoint.load_latest(Folder(training), config, SHAPE)
    assert last is not None
    return last.arrays


def version_of(model: Path, folder: Path) -> Path:
    """Return a version of the registry, like push creates from a model."""
    manifest = read_manifest(model)
    with new_artifact(folder / "v0007", "version", config=PushConfig()) as writer:
        shutil.copyfile(model / "state.npz", writer.path / "state.npz")
        writer.details = {"image_size": 8, "channels": 1, "latents": 8, "classes": 0, "train": manifest.config}
    return folder / "v0007"


def test_training_starts_with_the_variables_of_the_model(first: Path, other_data: tuple[Path, Path], tmp_path: Path) -> None:
    config = TrainConfig(**TINY, start_from="registry")
    source = open_source(other_data[0], seed=0, n_critic=2, batch_size=8, mode="auto")
    held_out = np.zeros([0, 8, 8, 1], np.uint8)
    store = Folder(tmp_path / "training")
    with train_run._leased(store) as lease:
        training = train_run.make_training(config, make_strategy(config), source, held_out, store, store.path, lease)
    assert train_run.resume_or_start(training, config, first / "model")[0] is None
    expected = arrays_of(first, TrainConfig(**TINY))
    got = variables.state_arrays(training.state)
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert training.progress.round == 0


def test_the_moving_average_of_the_champion_goes_on(first: Path, other_data: tuple[Path, Path], tmp_path: Path) -> None:
    """After the champion's 12 rounds, the first round keeps 13/22 of its average, as if there had been no new start."""
    once: dict[str, Any] = dict.fromkeys(("rounds", "rounds_per_call", "log_every_rounds", "checkpoint_every_rounds"), 1)
    once |= {"sample_every_rounds": 1, "start_from": "registry"}
    train(other_data, tmp_path, first / "model", **once)
    before, after = arrays_of(first, TrainConfig(**TINY)), arrays_of(tmp_path, TrainConfig(**TINY | once))
    averages = [name for name in before if name.startswith("ema_generator/")]
    for name in averages:
        expected = 13 / 22 * before[name] + 9 / 22 * after[name.replace("ema_generator", "generator")]
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)
    assert len(averages) > 5


def test_training_can_start_from_a_version(
    first: Path, other_data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = version_of(first / "model", tmp_path)
    summary = train(other_data, tmp_path, version, start_from=str(tmp_path), rounds=8, seed=5)
    assert summary.started_from == "v0007"
    assert read_manifest(tmp_path / "model").details["started_from"] == "v0007"
    assert "Training 8 rounds from v0007 on cpu:1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "shape", "sentence"),
    [
        ({"generator_learning_rate": 1e-3}, SHAPE, "was made with train.generator_learning_rate = 0.0005, not 0.001"),
        ({"networks": "residual"}, SHAPE, 'was made with train.networks = "plain", not "residual"'),
        ({}, ImageShape(8, 1, 10), "was made with classes = 0, not 10"),
        ({}, ImageShape(16, 3), "was made with image_size = 8, not 16; channels = 1, not 3"),
    ],
)
def test_incompatible_models_are_refused_with_the_differences(
    first: Path, changes: Any, shape: ImageShape, sentence: str
) -> None:
    origin, arrays = warm_start.load_start(first / "model", TrainConfig(**{**TINY, **changes}), shape, {})
    assert origin.why_from_scratch.endswith(sentence)
    assert not arrays


def test_training_starts_from_scratch_if_the_model_is_incompatible(
    first: Path, tmp_path: Path, other_data: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "was made with train.critic_channels = 4, not 8"
    summary = train(
        other_data, tmp_path, first / "model", start_from="registry", rounds=4, sample_every_rounds=4, critic_channels=8
    )
    output = capsys.readouterr().out
    assert "Not started from the champion: " in output
    assert sentence in output
    assert "from scratch" in output
    assert summary.started_from == ""
    assert sentence in summary.why_from_scratch


def test_training_starts_from_scratch_without_a_champion(
    tmp_path: Path, other_data: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    train(other_data, tmp_path, None, start_from="registry", rounds=4, sample_every_rounds=4)
    assert "Not started from the champion: there is no champion yet" in capsys.readouterr().out


def test_a_resumed_training_keeps_its_start(
    first: Path, other_data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The champion may change meanwhile; the result is that of a training that was not interrupted."""
    version = version_of(first / "model", tmp_path / "registry")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(other_data, whole, version, start_from="registry")
    real, calls = loop.report_progress, []

    def stop(training: loop.Training, line: MetricsLine) -> None:
        real(training, line)
        calls.append(line.round)
        if len(calls) == 3:
            raise InterruptedStepError("stopped")

    monkeypatch.setattr(loop, "report_progress", stop)
    with pytest.raises(InterruptedStepError):
        train(other_data, stopped, version, start_from="registry")
    monkeypatch.undo()
    summary = train(other_data, stopped, None, start_from="elsewhere")
    assert (summary.resumed_from_round, summary.started_from) == (4, "v0007")
    config = TrainConfig(**TINY, start_from="registry")
    expected, got = arrays_of(whole, config), arrays_of(stopped, config)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert file_entries(whole / "model")["state.npz"] == file_entries(stopped / "model")["state.npz"]


def test_a_model_without_variables_cannot_be_started_from(first: Path, tmp_path: Path) -> None:
    shutil.copytree(first / "model", tmp_path / "old")
    with new_artifact(tmp_path / "worse", "model", config=TrainConfig(**TINY)) as writer:
        writer.details = read_manifest(tmp_path / "old").details
    origin, arrays = warm_start.load_start(tmp_path / "worse", TrainConfig(**TINY), SHAPE, {})
    assert origin.why_from_scratch.endswith("contains no variables to start from")
    assert not arrays


def test_a_damaged_champion_is_an_error(first: Path, other_data: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(first / "model", tmp_path / "old")
    (tmp_path / "old" / "state.npz").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match=r"state\.npz does not match its digest"):
        train(other_data, tmp_path, tmp_path / "old", start_from="registry")


class TestKeys:
    def test_the_key_does_not_depend_on_the_location_of_the_registry(self) -> None:
        here, there, scratch = (TrainConfig(**TINY, start_from=place) for place in ("/a", "gs://b/c", ""))
        assert training_key(here, "d") == training_key(there, "d")
        assert training_key(here, "d") != training_key(scratch, "d")

    def test_the_key_of_the_step_does_not_depend_on_the_champion(self) -> None:
        keys = [
            step_keys(load_config(None, [f"train.start_from={place}"]), "digest")["train"] for place in ("/a", "champion", "")
        ]
        assert keys[0] == keys[1] != keys[2]
