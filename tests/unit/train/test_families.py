"""Networks, labels, clipping, lazy penalty, streaming and scores: each family trains, and resumes bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from components.common.errors import ConfigError, InterruptedStepError
from components.common.store import Folder
from components.generator import generator
from components.train import loop
from components.train import run as train_run
from components.train.config import TrainConfig
from components.train.monitor import Monitor
from components.train.networks import ImageShape
from components.train.progress import MetricsLine, ScoreLine
from components.train.saving import checkpoint
from tests.support.datasets.training_data import write_digits
from tests.unit.train.test_run import TINY

CONFIG: dict[str, Any] = {**TINY, "rounds": 8, "sample_every_rounds": 8, "score_every_images": 0}
FAMILIES: dict[str, dict[str, Any]] = {
    "residual": {"networks": "residual"},
    "conditional": {"conditional": True},
    "both": {"networks": "residual", "conditional": True},
    "clip": {"lipschitz": "clip"},
    "lazy": {"penalty_every_rounds": 2, "data": "stream"},
    "falling rates": {"decay_share": 0.75},
    "scored": {"score_every_images": 32},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_digits(tmp_path_factory.mktemp("data"), train=120, held_out=110)


def train(data: tuple[Path, Path], folder: Path, /, **changes: Any) -> train_run.TrainSummary:
    config = TrainConfig(**{**CONFIG, **changes})
    return train_run.run(config, dataset=data[0], validation=data[1], work_dir=folder / "work", out=folder / "model")


def last_checkpoint(folder: Path, **changes: Any) -> checkpoint.Checkpoint:
    (training,) = (folder / "work" / "checkpoints").iterdir()
    config = TrainConfig(**{**CONFIG, **changes})
    found = checkpoint.load_latest(Folder(training), config, ImageShape(8, 1, 10 if config.conditional else 0))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name == "scored" else pytest.mark.heavy) for name in FAMILIES]
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    family: str, data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = FAMILIES[family]
    train(data, tmp_path / "one", **changes)
    real, done = loop.run_call, []

    def stop(*args: Any) -> MetricsLine:
        done.append(real(*args))
        if len(done) == 3:
            raise InterruptedStepError("killed", "")
        return done[-1]

    monkeypatch.setattr(loop, "run_call", stop)
    with pytest.raises(InterruptedStepError):
        train(data, tmp_path / "other", **changes)
    monkeypatch.setattr(loop, "run_call", real)
    assert train(data, tmp_path / "other", **changes).resumed_from_round == 4
    one, other = (last_checkpoint(tmp_path / name, **changes) for name in ("one", "other"))
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(other.arrays[name], array, err_msg=name)
    assert other.progress.scores == one.progress.scores
    assert [logged.model_copy(update={"seconds": 0.0}) for logged in one.progress.log] == [
        logged.model_copy(update={"seconds": 0.0}) for logged in other.progress.log
    ]
    for mine, theirs in zip(one.progress.best, other.progress.best, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    moved = [name for name, array in one.arrays.items() if name.startswith(("generator/", "critic/")) and np.any(array)]
    assert len(moved) > 8


def test_clipping_bounds_all_weights_of_the_critic(data: tuple[Path, Path], tmp_path: Path) -> None:
    train(data, tmp_path, lipschitz="clip", clip_value=0.02)
    arrays = last_checkpoint(tmp_path, lipschitz="clip", clip_value=0.02).arrays
    largest = {
        part: max(np.abs(a).max() for n, a in arrays.items() if n.startswith(f"{part}/")) for part in ("critic", "generator")
    }
    assert largest["critic"] <= 0.02 < largest["generator"]


def test_the_metric_of_the_lazy_penalty_is_a_mean_over_its_rounds(data: tuple[Path, Path], tmp_path: Path) -> None:
    lazy = {"penalty_every_rounds": 2, "critic_learning_rate": 1e-9, "generator_learning_rate": 1e-9}
    slow = {**lazy, "penalty_every_rounds": 1}
    train(data, tmp_path / "lazy", **lazy)
    train(data, tmp_path / "every", **slow)
    one = last_checkpoint(tmp_path / "lazy", **lazy).progress.log[-1].penalty
    other = last_checkpoint(tmp_path / "every", **slow).progress.log[-1].penalty
    assert one == pytest.approx(other, rel=0.2)
    assert one != other


def test_a_conditional_model_generates_the_requested_label(data: tuple[Path, Path], tmp_path: Path) -> None:
    train(data, tmp_path, conditional=True)
    model = tf.saved_model.load(str(tmp_path / "model" / "saved_model"))
    seed = tf.constant(3, tf.int64)
    any_label = model.signatures["generate"](seed=seed, count=tf.constant(20))["images"]
    assert any_label.shape == (20, 8, 8, 1)
    of = model.signatures["generate_labels"]
    sevens = of(seed=seed, labels=tf.constant([7, 7]))["images"]
    np.testing.assert_array_equal(sevens, of(seed=seed, labels=tf.constant([7, 7]))["images"])
    assert np.any(sevens != of(seed=seed, labels=tf.constant([1, 1]))["images"])
    loaded = generator.load(generator.find_saved_model(tmp_path / "model"))
    assert loaded.label_counts.numpy().tolist() == np.bincount(load_digits().target[:120]).tolist()
    assert np.any(generator.sample(loaded, 3, seed=0, label=1) != generator.sample(loaded, 3, seed=0, label=7))


def test_a_conditional_training_without_labels_is_refused(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", labelled=False)
    with pytest.raises(ConfigError, match=r"train.conditional = true, but not all training images.*labels_from_folders"):
        train(data, tmp_path, conditional=True)


def set_scores(kids: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    remaining = list(kids)

    def score(self: Monitor, samples: Any, round_done: int, images_seen: int) -> ScoreLine:
        return ScoreLine(round=round_done, images_seen=images_seen, kid=remaining.pop(0), kid_std=0.001)

    monkeypatch.setattr(Monitor, "score", score)


def test_a_training_that_got_worse_exports_its_best_model(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_scores([0.5, 0.1, 0.4, 0.6], monkeypatch)
    assert train(data, tmp_path / "worse", score_every_images=32).exported_round == 4
    set_scores([0.5, 0.4, 0.2, 0.1], monkeypatch)
    assert train(data, tmp_path / "better", score_every_images=32).exported_round == 8
    assert train(data, tmp_path / "short", score_every_images=0, rounds=4).exported_round == 4

    def drawn(name: str) -> Any:
        model = tf.saved_model.load(str(tmp_path / name / "model" / "saved_model"))
        return model.signatures["generate"](seed=tf.constant(1, tf.int64), count=tf.constant(4))["images"].numpy()

    np.testing.assert_array_equal(drawn("worse"), drawn("short"), "the moving average of the best round")
    assert np.any(drawn("worse") != drawn("better"))


def test_patience_stops_the_training(data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_scores([0.2, 0.3, 0.4, 0.1], monkeypatch)
    summary = train(data, tmp_path, score_every_images=32, patience=2)
    assert (summary.rounds, summary.exported_round) == (6, 2)
    again = train(data, tmp_path, score_every_images=32, patience=2)
    assert (again.resumed_from_round, again.rounds) == (6, 6), "a training that stopped early does not continue"
