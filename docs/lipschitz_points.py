"""Critics of points of the plane, trained with step.critic_step on fixed fake points (Gulrajani et al. 2017, figure 1)."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.train import losses, noise, step
from components.train.config import TrainConfig
from components.train.networks import score

# A point is an image of one pixel with two channels, so that the steps accept it.
POINTS = {"global_batch_size": 256, "critic_learning_rate": 5e-4}
RING_RADIUS, RING_SPREAD, NOISE = 2.0, 0.02, 1.0

Floats = npt.NDArray[np.floating]


def point_seed(seed: int, index: int | tf.Tensor) -> tf.Tensor:
    """Return the seed, int32 [2], of the points of a step."""
    return tf.random.fold_in(tf.constant([seed, 0]), index)


def ring(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Return points of eight Gaussians on a circle, [count, 1, 1, 2]."""
    which = tf.random.stateless_uniform([count], tf.random.fold_in(seed, 0), 0, 8, tf.int32)
    angle = tf.cast(which, tf.float32) * (np.pi / 4)
    centres = RING_RADIUS * tf.stack([tf.cos(angle), tf.sin(angle)], axis=1)
    points = centres + tf.random.stateless_normal([count, 2], tf.random.fold_in(seed, 1), stddev=RING_SPREAD)
    return tf.reshape(points, [count, 1, 1, 2])


def point_examples(seed: tf.Tensor, count: int) -> step.Examples:
    """Return a batch. The fake points are other real points plus Gaussian noise, independent of the critic."""
    fakes = ring(tf.random.fold_in(seed, 2), count)
    fakes += tf.random.stateless_normal(fakes.shape, tf.random.fold_in(seed, 3), stddev=NOISE)
    alpha = tf.random.stateless_uniform([count], tf.random.fold_in(seed, 4))
    return step.Examples(ring(seed, count), fakes, alpha, tf.zeros([count], tf.int32))


def point_critic(hidden_layers: int, width: int) -> keras.Model:
    """Return a critic of dense layers, from points [B, 1, 1, 2] to scores [B]."""
    points = keras.Input([1, 1, 2])
    x = keras.layers.Flatten()(points)
    for index in range(hidden_layers):
        x = keras.layers.Dense(width, "relu", kernel_initializer=keras.initializers.HeUniform(seed=index), name=f"h{index}")(x)
    x = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=hidden_layers), name="score")(x)
    return keras.Model(points, keras.layers.Reshape([])(x))


def train_point_critic(config: TrainConfig, critic: keras.Model, steps: int) -> float:
    """Train a critic of points with `step.critic_step`; return the mean Wasserstein gap of the last 50 steps."""
    optimizer = keras.optimizers.Adam(config.critic_learning_rate, beta_1=config.beta_1, beta_2=config.beta_2)
    optimizer.build(critic.trainable_variables)
    state = step.State(None, critic, None, None, optimizer)

    @tf.function
    def one(index: tf.Tensor) -> tf.Tensor:
        examples = point_examples(point_seed(config.seed, index), config.global_batch_size)
        return step.critic_step(state, config, examples, index)[0]

    gaps = [float(one(tf.constant(index))[1]) for index in range(steps)]
    return float(np.mean(gaps[-50:]))


def surface(critic: keras.Model, half_width: float = 4.0, side: int = 120) -> Floats:
    """Return the critic's scores on a square grid of points, [side, side]."""
    axis = np.linspace(-half_width, half_width, side, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 1, 1, 2)
    return critic(points).numpy().reshape(side, side)


def point_slopes(config: TrainConfig, critic: keras.Model, count: int = 2048) -> Floats:
    """Return the critic's slopes at mixed points, [count]."""
    examples = point_examples(point_seed(config.seed, noise.FIXED_LATENTS), count)
    mixed = losses.mixed_images(examples.real_images, examples.fake_images, examples.alpha)
    return losses.slopes(lambda images: score(critic, images, None), mixed).numpy()


def gradient_norms(critic: keras.Model, points: tf.Tensor) -> Floats:
    """Return, for each hidden layer, the mean over points of the norm of the score's gradient at that layer's output."""
    hidden = [layer.output for layer in critic.layers if layer.name.startswith("h")]
    watched = keras.Model(critic.inputs, [*hidden, critic.output])
    with tf.GradientTape() as tape:
        *values, scores = watched(points)
    return np.array([float(tf.reduce_mean(tf.norm(each, axis=1))) for each in tape.gradient(scores, values)])
