"""Trains the quickstart's digits with the loop of components.train, and records samples, slopes and weights."""

from __future__ import annotations

import time
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.train import loop, losses, noise, step
from components.train.config import TrainConfig
from components.train.data.resident import Resident
from components.train.devices import host_call
from components.train.devices.strategy import make_strategy
from components.train.networks import ImageShape, score
from components.train.saving import variables
from components.train.saving.export import Generator

Floats = npt.NDArray[np.floating]


class TrainingMoment(NamedTuple):
    """A training at one moment: samples uint8 [n, H, W, 1] of the EMA generator, the critic's slopes and weights."""

    rounds: int
    cpu_seconds: float
    samples: npt.NDArray[np.uint8]
    slopes: Floats
    weights: Floats


class DigitTraining:
    """A training with the loop of components.train that counts the CPU seconds of this process.

    The first call, which traces, and `moment` are not counted, and other programs on the machine do not affect the count.
    """

    def __init__(self, images: npt.NDArray[np.uint8], config: TrainConfig) -> None:
        tf.config.optimizer.set_experimental_options({"remapping": False})  # as in components.train.run
        self.images, self.config = images, config
        shape = ImageShape(images.shape[1], images.shape[3])
        strategy = make_strategy(config)
        order = {"seed": config.seed, "n_critic": config.n_critic, "batch_size": config.global_batch_size}
        self.source = Resident(images.copy(), np.zeros(len(images), np.int32), **order)
        self.state = step.make_state(shape, config, strategy)
        self.call = host_call.make_call(self.state, config, strategy, self.source)
        self.generator = Generator(shape, config)
        self.rounds, self.cpu_seconds = 0, 0.0

    def train(self, rounds: int = 0, cpu_seconds: float = 0.0) -> None:
        """Continue until at least this number of rounds, and of CPU seconds, is reached."""
        while self.rounds < rounds or self.cpu_seconds < cpu_seconds:
            started, first = time.process_time(), self.rounds == 0
            self.rounds = loop.run_call(self.call, self.config, self.source, self.rounds).round
            self.cpu_seconds += 0.0 if first else time.process_time() - started

    def moment(self, count: int) -> TrainingMoment:
        """Draw `count` samples, and compute the slopes at `count` mixed images."""
        self.generator.set_weights(variables.averages(self.state))
        latents, alphas = noise.round_noise(0, noise.FIXED_LATENTS, noise.Rows(0, count), 1, self.config.latents)
        reals = step.to_float(self.images[np.arange(count) % len(self.images)])
        mixed = losses.mixed_images(reals, self.state.generator(latents[0], training=True), alphas[0])
        slopes = losses.slopes(lambda images: score(self.state.critic, images, None), mixed).numpy()
        return TrainingMoment(
            self.rounds, self.cpu_seconds, self.generator.draw(1, count), slopes, weights_of(self.state.critic)
        )


def weights_of(critic: keras.Model) -> Floats:
    """Return all kernels of a critic as one vector, without the biases, which start at zero."""
    return np.concatenate([v.numpy().ravel() for v in critic.trainable_variables if v.name == "kernel"])
