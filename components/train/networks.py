"""Generator and critic for images of 4·2^k or 7·2^k pixels.

Two families. Plain: one convolution per resolution (Radford et al. 2016, arXiv:1511.06434, without BatchNorm). Residual: blocks
of two convolutions (Gulrajani et al. 2017, arXiv:1704.00028, appendix C). No layer mixes examples, so an example does not
depend on the others on its replica, and each slope of the penalty belongs to one example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras

from components.train.config import TrainConfig
from components.train.layers.activations import Leaky, Normalised
from components.train.layers.labels import LabelRows
from components.train.layers.strided import StridedConv, UpConv
from components.train.layers.to_image import ToImage

MAX_CHANNELS = 512
LEAK = 0.2


Layer = Callable[[keras.KerasTensor], keras.KerasTensor]


class ImageShape(NamedTuple):
    """Height = width in pixels, channels, and the number of labels that the networks see (0: none)."""

    size: int
    channels: int
    classes: int = 0


def base_size(size: int) -> int:
    """Return the height of the smallest feature map: 7 or 4. Raises ValueError for an unsupported image size."""
    base = 7 if size % 7 == 0 else 4
    doublings, rest = divmod(size, base)
    if rest or doublings & (doublings - 1) or doublings < 2:
        raise ValueError(f"image size {size} is neither 4·2^k nor 7·2^k")
    return base


def layer_channels(size: int, last: int) -> list[int]:
    """Return the channels at each resolution from the smallest on; they halve at each doubling and end at `last`."""
    doublings = (size // base_size(size)).bit_length() - 1
    return [min(MAX_CHANNELS, last * 2**power) for power in range(doublings, -1, -1)]


def make_generator(shape: ImageShape, config: TrainConfig, dtype: str = "float32", on_cpu: bool = False) -> keras.Model:
    """Return the generator: latents [B, L], and labels int32 [B] if it has classes, to images [B, H, W, C] in [-1, 1], float32.

    LayerNorm over channels; the label determines its gain and offset (Miyato and Koyama 2018, arXiv:1802.05637, section 5).
    """
    make = _Maker(shape, config.seed, dtype, on_cpu)
    latents = keras.Input([config.latents], name="latents")
    first, *others = layer_channels(shape.size, config.generator_channels)
    base = base_size(shape.size)
    x = make.dense(base * base * first, "dense")(latents)
    x = keras.layers.Reshape([base, base, first], dtype=dtype, name="base")(x)
    if config.networks == "plain":
        x = make.normalised(x, "base")
    for index, channels in enumerate(others):
        if config.networks == "plain":
            x = make.normalised(make.up_conv(channels, f"conv_{index}")(x), str(index), biased=True)
        else:
            x = _block_upwards(make, x, channels, index)
    if config.networks == "residual":
        x = make.normalised(x, "last")
    return keras.Model(make.inputs(latents), make.image(x, shape.channels), name="generator")


def make_critic(shape: ImageShape, config: TrainConfig, dtype: str = "float32", on_cpu: bool = False) -> keras.Model:
    """Return the critic: images [B, H, W, C] in [-1, 1], and labels int32 [B] if it has classes, to scores [B], float32.

    No BatchNorm (the penalty is per example) and no Dropout (Gulrajani et al. 2017, section 4). Labels enter by projection
    (Miyato and Koyama 2018, equation 3): the inner product of the features and a vector of the label is added to the score.
    With bfloat16 layers, the features are converted to float32 before both: each is a sum over thousands of features, and the
    losses are differences of scores.
    """
    make = _Maker(shape, config.seed + 1, dtype, on_cpu)
    images = keras.Input([shape.size, shape.size, shape.channels], name="images")
    channels_downwards = list(reversed(layer_channels(shape.size, config.critic_channels)))
    x = images
    if config.networks == "plain":
        for index, channels in enumerate(channels_downwards):
            x = make.leaky(make.conv(channels, 4, f"conv_{index}", strides=2)(x), str(index))
    else:
        for index, channels in enumerate(channels_downwards[1:]):
            x = _block_downwards(make, x, channels, index)
        x = make.leaky(x, "last")
    last = "float32" if dtype == "mixed_bfloat16" else dtype
    x = keras.layers.Flatten(dtype=last, name="flat")(x)
    scores = make.dense(1, "score", dtype=last)(x)
    if make.labels is not None:
        own = LabelRows(shape.classes, x.shape[1], "zeros", dtype=last, name="label_vector")(make.labels)
        scores = keras.layers.Add(dtype="float32")([scores, keras.layers.Dot(1, dtype="float32", name="projection")([x, own])])
    scores = keras.layers.Reshape([], dtype="float32", name="scores")(
        keras.layers.Activation("linear", dtype="float32")(scores)
    )
    return keras.Model(make.inputs(images), scores, name="critic")


def generate(generator: keras.Model, latents: object, labels: object) -> object:
    """Return the images [B, H, W, C] of latents [B, L]; labels [B] are used by conditional generators only."""
    return generator([latents, labels] if len(generator.inputs) == 2 else latents, training=True)


def score(critic: keras.Model, images: object, labels: object) -> object:
    """Return the scores [B] of images [B, H, W, C]; labels [B] are used by conditional critics only."""
    return critic([images, labels] if len(critic.inputs) == 2 else images, training=True)


def _block_upwards(make: _Maker, x: keras.KerasTensor, channels: int, index: int) -> keras.KerasTensor:
    """Return the sum of a 1×1 convolution and of two 3×3 ones, both with up-sampling: [B, H, W, I] to [B, 2H, 2W, O]."""
    # The 1×1 convolution comes before the up-sampling: the result is the same at a quarter of the cost.
    shortcut = keras.layers.UpSampling2D(2, dtype=make.dtype)(make.conv(channels, 1, f"shortcut_{index}")(x))
    x = make.up_conv(channels, f"first_{index}")(make.normalised(x, f"first_{index}"))
    x = make.conv(channels, 3, f"second_{index}")(make.normalised(x, f"second_{index}", biased=True))
    return keras.layers.Add(dtype=make.dtype)([shortcut, x])


def _block_downwards(make: _Maker, x: keras.KerasTensor, channels: int, index: int) -> keras.KerasTensor:
    """Return the sum of a 1×1 convolution and of two 3×3 ones, both with average pooling: [B, H, W, I] to [B, H/2, W/2, O]."""
    shortcut = make.conv(channels, 1, f"shortcut_{index}")(make.halved(x, f"shortcut_{index}"))
    if index:  # the first block starts with the image, which needs no activation
        x = make.leaky(x, f"first_{index}")
    x = make.leaky(make.conv(channels, 3, f"first_{index}")(x), f"second_{index}")
    x = make.halved(make.conv(channels, 3, f"second_{index}")(x), f"block_{index}")
    return keras.layers.Add(dtype=make.dtype)([shortcut, x])


class _Maker:
    """Creates the layers of one network, each with a different seed, so that weights depend only on the seed."""

    def __init__(self, shape: ImageShape, seed: int, dtype: str, on_cpu: bool) -> None:
        self.dtype, self.next_seed, self.classes, self.on_cpu = dtype, seed * 1000, shape.classes, on_cpu
        self.labels = keras.Input([], dtype="int32", name="labels") if shape.classes else None

    def inputs(self, first: keras.KerasTensor) -> keras.KerasTensor | list[keras.KerasTensor]:
        return first if self.labels is None else [first, self.labels]

    def initializer(self) -> keras.initializers.Initializer:
        self.next_seed += 1
        return keras.initializers.GlorotUniform(seed=self.next_seed)

    def dense(self, units: int, name: str, dtype: str = "") -> Layer:
        return keras.layers.Dense(  # type: ignore[no-any-return]
            units, kernel_initializer=self.initializer(), dtype=dtype or self.dtype, name=name
        )

    def conv(self, channels: int, size: int, name: str, strides: int = 1) -> Layer:
        layer = StridedConv if self.on_cpu and strides == 2 else keras.layers.Conv2D
        return layer(channels, size, strides, "same", kernel_initializer=self.initializer(), dtype=self.dtype, name=name)

    def image(self, x: keras.KerasTensor, channels: int) -> keras.KerasTensor:
        """Return the image of features x: tanh of a 3×3 convolution."""
        if self.on_cpu and channels == 1:
            return ToImage(self.initializer(), dtype=self.dtype, name="to_image")(x)
        return keras.layers.Activation("tanh", dtype="float32", name="image")(self.conv(channels, 3, "to_image")(x))

    def up_conv(self, channels: int, name: str) -> Layer:
        return UpConv(channels, self.initializer(), self.on_cpu, dtype=self.dtype, name=name)

    def leaky(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return Leaky(LEAK, self.on_cpu, dtype=self.dtype, name=f"leaky_{name}")(x)

    def halved(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return keras.layers.AveragePooling2D(2, dtype=self.dtype, name=f"halved_{name}")(x)

    def normalised(self, x: keras.KerasTensor, name: str, biased: bool = False) -> keras.KerasTensor:
        """Return x after LayerNorm and a leaky ReLU; `biased`: x comes from `up_conv`."""
        own, dtype = self.labels is not None, self.dtype
        inputs = [x]
        if own:
            for initial in ("ones", "zeros"):
                rows = LabelRows(self.classes, x.shape[-1], initial, dtype=dtype, name=f"norm_{name}_{initial}")(self.labels)
                inputs.append(keras.layers.Reshape([1, 1, x.shape[-1]], dtype=dtype)(rows))
        leaky = Leaky(LEAK, dtype=dtype, name=f"leaky_{name}")
        layer = Normalised(leaky, biased, not own, self.on_cpu, dtype=dtype, name=f"norm_{name}")
        return layer(inputs if own else x)
