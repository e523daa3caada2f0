"""Contender: components.train with the [train] section of a config."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.contender import DRAW_BATCH, AfterCall, Images
from components.common.artifacts import code_digest
from components.common.command import read_section
from components.dataset.records import NO_LABEL
from components.train import loop, progress, step
from components.train.config import TrainConfig
from components.train.data.resident import Resident
from components.train.devices import host_call, precision
from components.train.devices.strategy import make_strategy
from components.train.networks import ImageShape
from components.train.saving import variables
from components.train.saving.export import Generator

ROUNDS_PER_CALL = 10  # at most, so that a call ends near each mark


def train_config(file: Path) -> TrainConfig:
    """Return the [train] section with short host calls.

    The clock ends the training, so the number of rounds is unlimited, unless learning rates fall until the last one.
    """
    config = read_section(TrainConfig, "train", file)
    rounds = config.rounds if config.decay_share else 10**8
    return config.model_copy(update={"rounds": rounds, "rounds_per_call": math.gcd(config.rounds_a_call, ROUNDS_PER_CALL)})


def settings(file: Path) -> dict[str, Any]:
    """Return the section and the code digest: if either changes, the contender is trained again."""
    return {"train": train_config(file).model_dump(mode="json"), "code_digest": code_digest("train")}


class Ours:
    """The contender that is compared with the others."""

    def __init__(self, images: Images, file: Path) -> None:
        self.config, self.images = train_config(file), images
        if self.config.precision == "auto":
            resolved = "bfloat16" if precision.bfloat16_is_faster(self.config.devices) else "float32"
            self.config = self.config.model_copy(update={"precision": resolved})
        self.settings = {**settings(file), "precision": self.config.precision}
        self._build()

    # Only the three methods below use the internals of components.train.

    def _build(self) -> None:
        strategy = make_strategy(self.config)
        shape = ImageShape(self.images.shape[1], self.images.shape[3])
        labels = np.full(len(self.images), NO_LABEL)
        order = {"seed": self.config.seed, "n_critic": self.config.n_critic, "batch_size": self.config.global_batch_size}
        self.source = Resident(self.images, labels, **order)
        self.state = step.make_state(shape, self.config, strategy)
        self.call = host_call.make_call(self.state, self.config, strategy, self.source)
        self.generator = Generator(shape, self.config)

    def train(self, after_call: AfterCall) -> None:
        """Train one host call at a time; its metrics are read back and checked as in a real run."""
        done = 0
        while done < self.config.rounds:
            done = loop.run_call(self.call, self.config, self.source, done).round
            if after_call(done, progress.images_seen(self.config, done)):
                return

    def draw(self, count: int, seed: int) -> Images:
        """Return images of the EMA generator in float32, as the exported model draws them."""
        self.generator.set_weights(variables.averages(self.state))
        return self.generator.draw(seed, count, DRAW_BATCH)
