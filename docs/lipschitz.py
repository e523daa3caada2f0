"""Draw docs/lipschitz_critics.png and docs/lipschitz_digits.png, and print the table of docs/lipschitz.md.

What a critic becomes under the gradient penalty, and under weight clipping: first on points of the plane with a fixed
generator (Gulrajani et al. 2017, arXiv:1704.00028, figure 1), then in the training of the quickstart. The steps are those of
components.train; only `train.lipschitz` and `train.clip_value` differ, and the rate where the table says so.

python docs/lipschitz.py
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's components

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.command import read_section
from components.evaluate import fid, kid
from components.evaluate.extractor import Extractor
from components.evaluate.extractor_training import train_classifier
from components.images import grid
from components.ingest.config import IngestConfig
from components.ingest.run import run as ingest
from components.records import ImageSet, read_split
from components.train import loop, losses, noise, step
from components.train.config import TrainConfig
from components.train.data import Resident
from components.train.export import Generator
from components.train.networks import ImageShape, score
from components.train.strategy import make_strategy

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "quickstart.toml"
BOUNDS: dict[str, dict[str, Any]] = {
    "gradient penalty": {"lipschitz": "penalty"},
    "clipping, c = 0.01": {"lipschitz": "clip", "clip_value": 0.01},
    "clipping, c = 0.1": {"lipschitz": "clip", "clip_value": 0.1},
}
COLOURS = dict(zip(BOUNDS, ("#0072b2", "#d55e00", "#e69f00"), strict=True))  # Okabe and Ito: told apart by everybody
MARKERS = dict(zip(BOUNDS, "os^", strict=True))

Floats = npt.NDArray[np.floating]


# Points of the plane, as images of one pixel with two channels: so the steps take them as they are.

POINTS = {"global_batch_size": 256, "critic_learning_rate": 5e-4}
RING_RADIUS, RING_SPREAD, NOISE = 2.0, 0.02, 1.0


def ring(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Return points of eight Gaussians on a circle, [count, 1, 1, 2]."""
    which = tf.random.stateless_uniform([count], tf.random.fold_in(seed, 0), 0, 8, tf.int32)
    angle = tf.cast(which, tf.float32) * (np.pi / 4)
    centres = RING_RADIUS * tf.stack([tf.cos(angle), tf.sin(angle)], axis=1)
    points = centres + tf.random.stateless_normal([count, 2], tf.random.fold_in(seed, 1), stddev=RING_SPREAD)
    return tf.reshape(points, [count, 1, 1, 2])


def point_examples(seed: tf.Tensor, count: int) -> step.Examples:
    """Return a batch: the fake points are other real ones with a Gaussian added, whatever the critic does."""
    fakes = ring(tf.random.fold_in(seed, 2), count)
    fakes += tf.random.stateless_normal(fakes.shape, tf.random.fold_in(seed, 3), stddev=NOISE)
    alpha = tf.random.stateless_uniform([count], tf.random.fold_in(seed, 4))
    return step.Examples(ring(seed, count), fakes, alpha, tf.zeros([count], tf.int32))


def point_critic(hidden_layers: int, width: int) -> keras.Model:
    """Return a critic of dense layers: points [B, 1, 1, 2] to scores [B]."""
    points = keras.Input([1, 1, 2])
    x = keras.layers.Flatten()(points)
    for index in range(hidden_layers):
        x = keras.layers.Dense(width, "relu", kernel_initializer=keras.initializers.HeUniform(seed=index), name=f"h{index}")(x)
    x = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=hidden_layers), name="score")(x)
    return keras.Model(points, keras.layers.Reshape([])(x))


def train_point_critic(config: TrainConfig, critic: keras.Model, steps: int) -> float:
    """Train a critic of points with `step.critic_step`; return the Wasserstein gap of the last 50 steps."""
    optimizer = keras.optimizers.Adam(config.critic_learning_rate, beta_1=config.beta_1, beta_2=config.beta_2)
    optimizer.build(critic.trainable_variables)
    state = step.State(None, critic, None, None, optimizer)

    @tf.function
    def one(index: tf.Tensor) -> tf.Tensor:
        examples = point_examples(noise.round_seed(config.seed, index), config.global_batch_size)
        return step.critic_step(state, config, examples, index)

    gaps = [float(one(tf.constant(index))[1]) for index in range(steps)]
    return float(np.mean(gaps[-50:]))


def surface(critic: keras.Model, half_width: float = 4.0, side: int = 120) -> Floats:
    """Return the critic's scores on a square grid of points, [side, side]."""
    axis = np.linspace(-half_width, half_width, side, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 1, 1, 2)
    return critic(points).numpy().reshape(side, side)


def point_slopes(config: TrainConfig, critic: keras.Model, count: int = 2048) -> Floats:
    """Return the critic's slopes at mixed points, [count]."""
    examples = point_examples(noise.round_seed(config.seed, noise.FIXED_LATENTS), count)
    mixed = losses.mixed_images(examples.real_images, examples.fake_images, examples.alpha)
    return losses.slopes(lambda images: score(critic, images, None), mixed).numpy()


def gradient_norms(critic: keras.Model, points: tf.Tensor) -> Floats:
    """Return, for each hidden layer, the mean over points of the norm of the score's gradient at that layer's output."""
    hidden = [layer.output for layer in critic.layers if layer.name.startswith("h")]
    watched = keras.Model(critic.inputs, [*hidden, critic.output])
    with tf.GradientTape() as tape:
        *values, scores = watched(points)
    return np.array([float(tf.reduce_mean(tf.norm(each, axis=1))) for each in tape.gradient(scores, values)])


def weights_of(critic: keras.Model) -> Floats:
    """Return all kernels of a critic as one vector; its offsets, which start at zero, are left out."""
    return np.concatenate([v.numpy().ravel() for v in critic.trainable_variables if v.name == "kernel"])


# The quickstart's digits.


class Snapshot(NamedTuple):
    """What a training is at some moment: samples uint8 [n, 8, 8, 1] of the moving average, the critic's slopes and weights."""

    rounds: int
    cpu_seconds: float
    samples: npt.NDArray[np.uint8]
    slopes: Floats
    weights: Floats


class DigitTraining:
    """A training by the loop of components.train, call by call, with a clock of the process's own CPU seconds.

    The clock leaves out the first call, which traces, and the snapshots; other programs on the machine do not move it.
    """

    def __init__(self, images: npt.NDArray[np.uint8], config: TrainConfig) -> None:
        self.images, self.config = images, config
        shape = ImageShape(images.shape[1], images.shape[3])
        strategy = make_strategy(config)
        order = {"seed": config.seed, "n_critic": config.n_critic, "batch_size": config.global_batch_size}
        self.source = Resident(images.copy(), np.zeros(len(images), np.int32), **order)
        self.state = step.make_state(shape, config, strategy)
        self.call = loop.make_call(self.state, config, strategy, self.source)
        self.generator = Generator(shape, config)
        self.rounds, self.cpu_seconds = 0, 0.0

    def train(self, rounds: int = 0, cpu_seconds: float = 0.0) -> None:
        """Go on until at least so many rounds, and so many seconds, are done."""
        while self.rounds < rounds or self.cpu_seconds < cpu_seconds:
            started, first = time.process_time(), self.rounds == 0
            self.rounds = loop.run_call(self.call, self.config, self.source, self.rounds).round
            self.cpu_seconds += 0.0 if first else time.process_time() - started

    def snapshot(self, count: int) -> Snapshot:
        """Draw `count` samples, and take the slopes at as many mixed images."""
        self.generator.take_weights(loop.averages(self.state))
        critic_noise = noise.critic_noise(noise.round_seed(0, noise.FIXED_LATENTS), 0, count, self.config.latents)
        reals = step.to_float(self.images[np.arange(count) % len(self.images)])
        mixed = losses.mixed_images(reals, self.state.generator(critic_noise.latents, training=True), critic_noise.alpha)
        slopes = losses.slopes(lambda images: score(self.state.critic, images, None), mixed).numpy()
        return Snapshot(self.rounds, self.cpu_seconds, self.generator.draw(1, count), slopes, weights_of(self.state.critic))
