"""benchmarks/accelerator_training: several calls on XLA's CPU make the model that the train step makes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import accelerator_training
from components.common.artifacts import read_manifest
from components.common.errors import PipelineError
from components.common.store import Folder
from components.generator import generator
from components.tpu_check import executor
from components.train import run as train_run
from components.train.config import TrainConfig
from components.train.networks import ImageShape
from components.train.saving import checkpoint
from tests.support.datasets.training_data import write_digits
from tests.unit.benchmarks.test_accelerator import TINY, benchmark


@pytest.mark.heavy
def test_the_model_is_that_of_the_train_step(tmp_path: Path) -> None:
    dataset, validation = write_digits(tmp_path / "data")
    bundle, trained, models = (tmp_path / name for name in ("bundle", "trained", "models"))
    settings = [
        word for name in (*TINY, "precision=float32", "generator_learning_rate=0.05") for word in ("--set", f"train.{name}")
    ]
    for words in (
        ("prepare", bundle, "configs/quickstart.toml", dataset, "--rounds", 15, "--rounds-per-call", 5, *settings),
        ("train", bundle, trained, "--save", "10,15"),
        ("export", bundle, trained, dataset, validation, models),
    ):
        done = benchmark(*map(str, words), program="accelerator_training.py")
        assert done.returncode == 0, done.stderr
        if words[0] == "train":
            figures = json.loads(done.stdout)
            assert (figures["rounds"], figures["within_bounds"]) == (15, True)
    assert np.load(trained / accelerator_training.METRICS).shape == (15, 6)

    config = TrainConfig.model_validate(json.loads((bundle / "about.json").read_text())["train"])
    config = config.model_copy(update={"rounds": 15, "checkpoint_every_rounds": 15, "score_every_images": 0})
    train_run.run(config, dataset=dataset, validation=validation, work_dir=tmp_path / "work", out=tmp_path / "model")
    (training,) = (tmp_path / "work" / "checkpoints").iterdir()
    last = checkpoint.load_latest(Folder(training), config, ImageShape(8, 1))
    assert last is not None
    average = executor.load_arrays(trained / "15.npz")
    assert average.keys() == {name for name in last.arrays if name.startswith(accelerator_training.AVERAGE)}
    for name, array in average.items():
        np.testing.assert_allclose(array, last.arrays[name], rtol=1e-4, atol=1e-6, err_msg=name)

    assert sorted(path.name for path in models.iterdir()) == ["0", "10", "15"]
    assert read_manifest(models / "15", "model").counts["rounds"] == 15
    drawn = [generator.sample_in_fresh_process(model, 20, 7) for model in (models / "15", tmp_path / "model", models / "0")]
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() <= 1  # rounding to a byte
    assert np.abs(drawn[2].astype(int) - drawn[1]).max() > 10  # what is not trained yet


def test_a_training_that_diverges(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"The training diverged before round 20\. Use smaller learning rates\."):
        accelerator_training.save(tmp_path, 20, {"ema_generator/000/kernel": np.array([np.nan])})


def test_a_folder_without_a_bundle(tmp_path: Path) -> None:
    done = benchmark("train", str(tmp_path), str(tmp_path / "out"), "--save", "5", program="accelerator_training.py")
    assert done.returncode == 1
    assert done.stderr.startswith(f"accelerator_training: {tmp_path} has no program.json. Make it with:")
