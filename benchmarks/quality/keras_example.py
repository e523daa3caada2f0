"""Contender: the Keras WGAN-GP example (keras.io, "WGAN-GP overriding Model.train_step") with its settings.

Networks, losses, optimizers, order of the steps and `fit` are the example's. Where it is ambiguous, the choice favours it:
- jit_compile=False: Keras's "auto" would compile with XLA, which is several times slower on a CPU.
- Interpolation weights are uniform, as in Gulrajani et al. 2017, Algorithm 1 (older copies draw normal ones).
- Batches are shuffled and prefetched by tf.data, and all have the same shape, so that nothing is traced twice.

The example is written for 28×28 grey images, which it pads to 32×32. Other sizes are padded to the next multiple of 8, and the
first and last layers have the channels of the images; nothing else changes.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from benchmarks.quality.contender import AfterCall, Images, draw_in_batches

LATENTS = 128
CRITIC_STEPS = 3
PENALTY_WEIGHT = 10.0


def base_and_border(size: int) -> tuple[int, tuple[int, int]]:
    """Return the height of the generator's first feature map, and the rows to crop on each side of 8 times that height."""
    base = -(-size // 8)
    border = 8 * base - size
    return base, (border // 2, border - border // 2)


def make_critic(size: int, channels: int) -> keras.Model:
    """Return the critic: padded images, four 5×5 convolutions of stride 2, dropout, one score [B, 1]."""
    _, border = base_and_border(size)
    images = keras.Input((size, size, channels))
    x = layers.ZeroPadding2D((border, border))(images)
    for filters, dropout in ((64, 0.0), (128, 0.3), (256, 0.3), (512, 0.0)):
        x = layers.Conv2D(filters, 5, strides=2, padding="same")(x)
        x = layers.LeakyReLU(0.2)(x)
        if dropout:
            x = layers.Dropout(dropout)(x)
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    return keras.Model(images, layers.Dense(1)(x), name="critic")


def make_generator(size: int, channels: int) -> keras.Model:
    """Return the generator: 128 latents to 4×4×256 (of 28×28), three times up-sampled, convolved with BatchNorm; cropped."""
    base, border = base_and_border(size)
    latents = keras.Input((LATENTS,))
    x = layers.Dense(base * base * 256, use_bias=False)(latents)
    x = layers.LeakyReLU(0.2)(layers.BatchNormalization()(x))
    x = layers.Reshape((base, base, 256))(x)
    tanh = layers.Activation("tanh")
    for filters, activation in ((128, layers.LeakyReLU(0.2)), (64, layers.LeakyReLU(0.2)), (channels, tanh)):
        x = layers.UpSampling2D(2)(x)
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = activation(layers.BatchNormalization()(x))
    return keras.Model(latents, layers.Cropping2D((border, border))(x), name="generator")


class WGAN(keras.Model):
    """The example's model: a `train_step` is three critic steps on the same real images and one generator step."""

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.critic, self.generator = make_critic(size, channels), make_generator(size, channels)
        self.critic_optimizer = keras.optimizers.Adam(2e-4, beta_1=0.5, beta_2=0.9)
        self.generator_optimizer = keras.optimizers.Adam(2e-4, beta_1=0.5, beta_2=0.9)

    def train_step(self, real_images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Train on a batch [B, H, W, C] in [-1, 1], as in the example."""
        for _ in range(CRITIC_STEPS):
            with tf.GradientTape() as tape:
                fake_images = self.generator(_latents(real_images), training=True)
                fake_scores = self.critic(fake_images, training=True)
                real_scores = self.critic(real_images, training=True)
                gap = tf.reduce_mean(real_scores) - tf.reduce_mean(fake_scores)
                critic_loss = PENALTY_WEIGHT * self.penalty(real_images, fake_images) - gap
            _apply(self.critic_optimizer, tape, critic_loss, self.critic)
        with tf.GradientTape() as tape:
            fake_images = self.generator(_latents(real_images), training=True)
            generator_loss = -tf.reduce_mean(self.critic(fake_images, training=True))
        _apply(self.generator_optimizer, tape, generator_loss, self.generator)
        return {"critic_loss": critic_loss, "generator_loss": generator_loss}

    def penalty(self, real_images: tf.Tensor, fake_images: tf.Tensor) -> tf.Tensor:
        """Return the mean of (slope - 1)² at one random point between each real and its fake image."""
        alpha = tf.random.uniform([tf.shape(real_images)[0], 1, 1, 1])
        mixed_images = real_images + alpha * (fake_images - real_images)
        with tf.GradientTape() as tape:
            tape.watch(mixed_images)
            scores = self.critic(mixed_images, training=True)
        gradients = tape.gradient(scores, mixed_images)
        slopes = tf.sqrt(tf.reduce_sum(tf.square(gradients), axis=[1, 2, 3]))
        return tf.reduce_mean((slopes - 1.0) ** 2)


def _latents(real_images: tf.Tensor) -> tf.Tensor:
    return tf.random.normal([tf.shape(real_images)[0], LATENTS])


def _apply(optimizer: keras.optimizers.Optimizer, tape: tf.GradientTape, loss: tf.Tensor, model: keras.Model) -> None:
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


class KerasExample:
    """The contender: `fit` on a shuffled, repeated dataset until the time is up."""

    def __init__(self, images: Images, batch_size: int) -> None:
        self.settings: dict[str, Any] = {"batch": batch_size, "precision": "float32", "jit_compile": False}
        self.batch_size = batch_size
        self.model = WGAN(images.shape[1], images.shape[3])
        self.model.compile(jit_compile=False)
        data = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images)).repeat().batch(batch_size, drop_remainder=True)
        self.data = data.map(lambda batch: (tf.cast(batch, tf.float32) - 127.5) / 127.5).prefetch(tf.data.AUTOTUNE)

    def train(self, after_call: AfterCall) -> None:
        """Call `fit`; a round is one `train_step`."""
        self.model.fit(
            self.data, epochs=1, steps_per_epoch=10**9, verbose=0, shuffle=False, callbacks=[_AfterBatch(self, after_call)]
        )

    def draw(self, count: int, seed: int) -> Images:
        """Return images of the generator in inference mode, as in the example's callback."""
        return draw_in_batches(self.model.generator, LATENTS, count, seed)


class _AfterBatch(keras.callbacks.Callback):
    def __init__(self, contender: KerasExample, after_call: AfterCall) -> None:
        super().__init__()
        self.contender, self.after_call = contender, after_call

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras passes both
        rounds = batch + 1
        # The three critic steps of a round see the same images.
        if self.after_call(rounds, rounds * self.contender.batch_size):
            self.model.stop_training = True
