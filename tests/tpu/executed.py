"""A training's program that XLA executes on virtual replicas of the CPU, and the same training by TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import keras
import pytest

from components.tpu_check import executor, parity, reference
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.parity import Bounds, Differences
from components.tpu_check.reference import Images, Trained
from components.tpu_check.slices import GENERATIONS, SLICES, TpuSlice
from components.tpu_check.subprocesses import run_subprocess
from components.train import networks
from components.train.config import TrainConfig

TOPOLOGIES = {1: "v5e:1x1", 2: "v5e:1x2", 4: "v5e:2x2", 8: "v5e:2x4"}
ROUNDS = 20
SGD = {"optimizer": "sgd", "critic_learning_rate": 1e-2, "generator_learning_rate": 1e-2}
RATES = ("rounds_per_call", "log_every_rounds", "checkpoint_every_rounds", "sample_every_rounds")


class Executed(NamedTuple):
    """The training on the CPU, what the program returned in its one call, and the names of what differs between replicas."""

    trained: Trained
    found: dict[str, Any]
    differing: tuple[str, ...]

    def compare(self, bounds: Bounds) -> Differences:
        before, after = self.trained.states
        found = dict(self.found)
        metrics = self.trained.metrics, found.pop("metrics")
        updates = parity.update_differences(before, after, found, by_variable=bounds.by_variable)
        return parity.compare(metrics, [updates], bounds, self.differing)


def config_for(replicas: int, rounds: int = ROUNDS, **train: Any) -> TpuCheckConfig:
    small = {
        "devices": "tpu", "precision": "float32", "global_batch_size": 16, "n_critic": 2, "latents": 8,
        "generator_channels": 8, "critic_channels": 8, **dict.fromkeys(RATES, rounds),
    }  # fmt: skip
    return TpuCheckConfig(topology=TOPOLOGIES[replicas], images=100, classes=5, train=TrainConfig(**(small | train)))


@pytest.fixture
def two_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice that no one rents: of two chips."""
    monkeypatch.setitem(SLICES, "v5e:1x2", TpuSlice(GENERATIONS["v5e"], "1x2"))


@pytest.fixture
def smooth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks with SiLU instead of the leaky ReLU, as in tests/parity/training.py, for the reason that is given there."""
    monkeypatch.setattr(networks, "Leaky", lambda *_, **settings: keras.layers.Activation("silu", **settings))


def trained_on_cpu(config: TpuCheckConfig) -> Trained:
    """Train on the CPU in one host call."""
    return reference.train_on_cpu(config, reference.synthetic_images(config), 1, config.train.rounds_a_call)


def executed(config: TpuCheckConfig, folder: Path, trained: Trained | None = None, images: Images | None = None) -> Executed:
    """Execute one host call of the program; the training on the CPU may be one from before a mistake was planted."""
    trained = trained or trained_on_cpu(config)
    reference.write_bundle(config, folder, images or reference.synthetic_images(config), trained)
    environment = executor.environment(config.slice.replicas)
    run_subprocess("components.tpu_check.executor", TpuCheckConfig(), folder, environment)
    figures = json.loads((folder / "execution.json").read_text())
    return Executed(trained, executor.load_arrays(folder / "results-000.npz"), tuple(figures["differing"]))
