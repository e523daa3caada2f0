"""Generator and critic, made from the image size: 4·2^k pixels, or 28 = 7·2²."""

from __future__ import annotations

from typing import NamedTuple

import keras

from components.train.config import TrainConfig

MAX_CHANNELS = 512
LEAK = 0.2


class ImageShape(NamedTuple):
    """Height = width in pixels, and channels."""

    size: int
    channels: int


def base_size(size: int) -> int:
    """Return the height of the smallest feature map: 7 for 28, else 4. Raises ValueError for a size that cannot be made."""
    base = 7 if size % 7 == 0 else 4
    doublings, rest = divmod(size, base)
    if rest or doublings & (doublings - 1) or doublings < 2:
        raise ValueError(f"image size {size} is neither 4·2^k nor 7·2^k")
    return base


def layer_channels(size: int, last: int) -> list[int]:
    """Return the channels at each resolution from the base upwards; they halve at each doubling and end at `last`."""
    doublings = (size // base_size(size)).bit_length() - 1
    return [min(MAX_CHANNELS, last * 2**power) for power in range(doublings, -1, -1)]


def make_generator(shape: ImageShape, config: TrainConfig, dtype: str = "float32") -> keras.Model:
    """Return the generator: latents [B, L] to images [B, H, W, C] in [-1, 1], float32.

    Up-sample and convolve, LayerNorm over channels: no statistics over the batch, so an example does not depend on which
    others share its replica.
    """
    seeds = _seeds(config.seed)
    first, *others = layer_channels(shape.size, config.generator_channels)
    base = base_size(shape.size)
    latents = keras.Input([config.latents], name="latents")
    x = keras.layers.Dense(base * base * first, kernel_initializer=next(seeds), dtype=dtype, name="dense")(latents)
    x = keras.layers.Reshape([base, base, first], dtype=dtype, name="base")(x)
    x = _normalise(x, "base", dtype)
    for index, channels in enumerate(others):
        x = keras.layers.UpSampling2D(2, dtype=dtype, name=f"up_{index}")(x)
        x = keras.layers.Conv2D(channels, 3, padding="same", kernel_initializer=next(seeds), dtype=dtype, name=f"conv_{index}")(
            x
        )
        x = _normalise(x, str(index), dtype)
    x = keras.layers.Conv2D(shape.channels, 3, padding="same", kernel_initializer=next(seeds), dtype=dtype, name="to_image")(x)
    return keras.Model(latents, keras.layers.Activation("tanh", dtype="float32", name="image")(x), name="generator")


def make_critic(shape: ImageShape, config: TrainConfig, dtype: str = "float32") -> keras.Model:
    """Return the critic: images [B, H, W, C] in [-1, 1] to scores [B], float32.

    4×4 convolutions of stride 2. No BatchNorm (the penalty is per example) and no Dropout (Gulrajani et al. 2017, section 4).
    """
    seeds = _seeds(config.seed + 1)
    channels_upwards = layer_channels(shape.size, config.critic_channels)
    images = keras.Input([shape.size, shape.size, shape.channels], name="images")
    x = images
    for index, channels in enumerate(reversed(channels_upwards)):
        x = keras.layers.Conv2D(
            channels, 4, strides=2, padding="same", kernel_initializer=next(seeds), dtype=dtype, name=f"conv_{index}"
        )(x)
        x = keras.layers.LeakyReLU(LEAK, dtype=dtype, name=f"leaky_{index}")(x)
    x = keras.layers.Flatten(dtype=dtype, name="flat")(x)
    x = keras.layers.Dense(1, kernel_initializer=next(seeds), dtype=dtype, name="score")(x)
    scores = keras.layers.Reshape([], dtype="float32", name="scores")(keras.layers.Activation("linear", dtype="float32")(x))
    return keras.Model(images, scores, name="critic")


def _normalise(x: keras.KerasTensor, name: str, dtype: str) -> keras.KerasTensor:
    x = keras.layers.LayerNormalization(epsilon=1e-5, dtype=dtype, name=f"norm_{name}")(x)
    return keras.layers.LeakyReLU(LEAK, dtype=dtype, name=f"leaky_{name}")(x)


class _seeds:  # noqa: N801 - an iterator that reads like a function
    """Yield an initializer for each layer, each with a seed of its own, so that weights depend on the seed alone."""

    def __init__(self, seed: int) -> None:
        self.next_seed = seed * 1000

    def __next__(self) -> keras.initializers.Initializer:
        self.next_seed += 1
        return keras.initializers.GlorotUniform(seed=self.next_seed)
