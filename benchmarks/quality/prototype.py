"""Contender: a prototype written in an afternoon, with plain Keras layers, one tf.function a round, two passes of the critic.

Its settings were specified together with the goal. Its moving average starts from the initial weights without a correction,
which is why its scores are poor in the first minutes. The specification is for 28×28 grey images; for others, the first feature
map is a quarter of the image, and the first and last layers have its channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from benchmarks.quality.contender import AfterCall, Images, draw_in_batches

LATENTS = 64
CRITIC_STEPS = 3
BATCH = 64
PENALTY_WEIGHT = 10.0
EMA_DECAY = 0.998  # a round
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def dtype_for(cpu_flags: set[str]) -> str:
    """Return the Keras dtype policy: bfloat16 if the CPU multiplies in it, because otherwise it would be slower."""
    return "mixed_bfloat16" if cpu_flags & BFLOAT16_FLAGS else "float32"


def cpu_flags() -> set[str]:
    """Return the flags of the first core in /proc/cpuinfo."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def make_generator(size: int, channels: int, dtype: str) -> keras.Model:
    """Return the generator: latents [B, 64] to images [B, H, W, C] in [-1, 1], float32; H = W = size, a multiple of 4."""
    latents, base = keras.Input((LATENTS,)), size // 4
    x = layers.Dense(base * base * 128, dtype=dtype)(latents)
    x = layers.Reshape((base, base, 128), dtype=dtype)(x)
    x = _normalised(x, dtype)
    for filters in (64, 32):
        x = layers.UpSampling2D(2, dtype=dtype)(x)
        x = _normalised(layers.Conv2D(filters, 3, padding="same", dtype=dtype)(x), dtype)
    x = layers.Conv2D(channels, 3, padding="same", dtype=dtype)(x)
    return keras.Model(latents, layers.Activation("tanh", dtype="float32")(x), name="generator")


def make_critic(size: int, channels: int, dtype: str) -> keras.Model:
    """Return the critic: images [B, H, W, C] to scores [B, 1], float32; H = W = size."""
    images = keras.Input((size, size, channels))
    x = images
    for filters in (32, 64, 128):
        x = layers.Conv2D(filters, 4, strides=2, padding="same", dtype=dtype)(x)
        x = layers.LeakyReLU(0.2, dtype=dtype)(x)
    x = layers.Dense(1, dtype=dtype)(layers.Flatten(dtype=dtype)(x))
    return keras.Model(images, layers.Activation("linear", dtype="float32")(x), name="critic")


def _normalised(x: Any, dtype: str) -> Any:
    return layers.LeakyReLU(0.2, dtype=dtype)(layers.LayerNormalization(dtype=dtype)(x))


class Prototype:
    """The contender with the specified settings."""

    def __init__(self, images: Images) -> None:
        dtype = dtype_for(cpu_flags())
        self.settings: dict[str, Any] = {"batch": BATCH, "precision": dtype, "ema_decay": EMA_DECAY}
        shape = images.shape[1], images.shape[3]
        self.generator, self.average = make_generator(*shape, dtype), make_generator(*shape, dtype)
        self.critic = make_critic(*shape, dtype)
        self.average.set_weights(self.generator.get_weights())
        self.critic_optimizer = keras.optimizers.Adam(5e-4, beta_1=0.0, beta_2=0.9)
        self.generator_optimizer = keras.optimizers.Adam(5e-4, beta_1=0.0, beta_2=0.9)
        self.critic_optimizer.build(self.critic.trainable_variables)
        self.generator_optimizer.build(self.generator.trainable_variables)
        data = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images)).repeat().batch(BATCH, drop_remainder=True)
        data = data.map(lambda batch: tf.cast(batch, tf.float32) / 127.5 - 1.0)
        self.data = data.batch(CRITIC_STEPS, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    def train(self, after_call: AfterCall) -> None:
        """Train one round at a time."""
        for rounds, batches in enumerate(self.data, start=1):
            float(self.round(batches))  # reading it back waits until the round is finished
            if after_call(rounds, rounds * CRITIC_STEPS * BATCH):
                return

    def draw(self, count: int, seed: int) -> Images:
        """Return images of the averaged generator."""
        return draw_in_batches(self.average, LATENTS, count, seed)

    @tf.function
    def round(self, batches: tf.Tensor) -> tf.Tensor:
        """Do the critic steps, each on new images, the generator step and the averaging; return the generator's loss."""
        for step in range(CRITIC_STEPS):
            self.critic_step(batches[step])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in self.generator.trainable_variables])
            fake_images = self.generator(tf.random.normal([BATCH, LATENTS]), training=True)
            loss = -tf.reduce_mean(self.critic(fake_images, training=True))
        _apply(self.generator_optimizer, tape, loss, self.generator)
        for average, value in zip(self.average.variables, self.generator.variables, strict=True):
            average.assign(EMA_DECAY * average + (1.0 - EMA_DECAY) * value)
        return loss

    def critic_step(self, real_images: tf.Tensor) -> None:
        """Update the critic: fakes are made outside the tape, real and fake images are scored together, mixed ones alone."""
        fake_images = self.generator(tf.random.normal([BATCH, LATENTS]), training=True)
        alpha = tf.random.uniform([BATCH, 1, 1, 1])
        mixed_images = alpha * real_images + (1.0 - alpha) * fake_images
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in self.critic.trainable_variables])
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(mixed_images)
                mixed_scores = self.critic(mixed_images, training=True)
            gradients = inner.gradient(mixed_scores, mixed_images)
            slopes = tf.sqrt(tf.reduce_sum(tf.square(gradients), axis=[1, 2, 3]) + 1e-12)
            scores = self.critic(tf.concat([real_images, fake_images], axis=0), training=True)
            real_scores, fake_scores = tf.split(scores, 2)
            gap = tf.reduce_mean(real_scores) - tf.reduce_mean(fake_scores)
            loss = PENALTY_WEIGHT * tf.reduce_mean((slopes - 1.0) ** 2) - gap
        _apply(self.critic_optimizer, tape, loss, self.critic)


def _apply(optimizer: keras.optimizers.Optimizer, tape: tf.GradientTape, loss: tf.Tensor, model: keras.Model) -> None:
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
