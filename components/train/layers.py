"""Layers that compute what Keras' own do, in a form that costs less.

All rests on one pair of linear maps, each the other's transpose: the 4×4 convolution of stride 2, and the same backwards.
The second is written as a 2×2 convolution that makes the four pixels of each 2×2 block at once (sub-pixel convolution: Shi et
al. 2016, arXiv:1609.07009). Since each is the gradient of the other, no derivative of any order needs another form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Along one axis, which taps of a 3-tap kernel fall on the same pixel of the small image when the large one repeats each of
# its pixels twice: their sums are the 4 taps of a transposed convolution of stride 2.
REPEATED = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)

Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@tf.custom_gradient  # type: ignore[untyped-decorator]
def halving_conv(images: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
    """Convolve images [B, H, W, I] with kernel [4, 4, I, O], stride 2, zeros around; [B, ⌈H/2⌉, ⌈W/2⌉, O]."""
    size = images.shape[1]

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return doubling_conv(upstream, kernel, size), _kernel_gradient(images, kernel, upstream)

    return tf.nn.conv2d(images, kernel, 2, "SAME"), gradient


def doubling_conv(features: tf.Tensor, kernel: tf.Tensor, size: int) -> tf.Tensor:
    """Return the transpose of `halving_conv`: features [B, h, w, O] and kernel [4, 4, I, O] to [B, size, size, I].

    `size` is 2h, or 2h - 1 for an odd image.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def doubled(features: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        inputs, outputs = kernel.shape[2], kernel.shape[3]
        # A pixel of the large image meets two taps an axis: 1 and 3 if its place is even, 0 and 2 if it is odd.
        pairs = tf.reverse(tf.reshape(kernel, [2, 2, 2, 2, inputs, outputs]), [0, 2])
        taps = tf.reshape(tf.transpose(pairs, [0, 2, 5, 1, 3, 4]), [2, 2, outputs, 4 * inputs])
        padded = tf.pad(features, [[0, 0], [1, 1], [1, 1], [0, 0]])
        large = tf.nn.depth_to_space(tf.nn.conv2d(padded, taps, 1, "VALID"), 2)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return halving_conv(upstream, kernel), _kernel_gradient(upstream, kernel, features)

        return large[:, 1 : 1 + size, 1 : 1 + size], gradient

    return doubled(features, kernel)


def _kernel_gradient(images: tf.Tensor, kernel: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
    # The one place that differentiates with respect to weights. Nothing differentiates it again: the penalty's inner gradient
    # is with respect to images alone.
    return tf.raw_ops.Conv2DBackpropFilter(
        input=images, filter_sizes=tf.shape(kernel), out_backprop=features, strides=[1, 2, 2, 1], padding="SAME"
    )


class DownConv(keras.layers.Layer):  # type: ignore[misc]
    """A 4×4 convolution of stride 2: [B, H, W, I] to [B, ⌈H/2⌉, ⌈W/2⌉, O]. The same as Conv2D(O, 4, 2, "same")."""

    def __init__(self, channels: int, kernel_initializer: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self.channels, self.kernel_initializer = channels, kernel_initializer

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make kernel and bias."""
        self.kernel = self.add_weight(
            shape=(4, 4, input_shape[-1], self.channels), initializer=self.kernel_initializer, name="kernel"
        )
        self.bias = self.add_weight(shape=(self.channels,), initializer="zeros", name="bias")

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Return the convolved image."""
        kernel, bias = (tf.cast(variable, self.compute_dtype) for variable in (self.kernel, self.bias))
        return tf.nn.bias_add(halving_conv(images, kernel), bias)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return [B, ⌈H/2⌉, ⌈W/2⌉, O]."""
        batch, height, width, _ = input_shape
        return (batch, -(-height // 2), -(-width // 2), self.channels)


class UpConv(keras.layers.Layer):  # type: ignore[misc]
    """Nearest-neighbour up-sampling by 2, then a 3×3 convolution: [B, H, W, I] to [B, 2H, 2W, O], as one convolution.

    The same as UpSampling2D(2) and Conv2D(O, 3, padding="same"), with their weights. A pixel of the small image is met up to
    nine times there; here those taps are summed first, so that a pixel costs 16 products a pair of channels and not 36,
    and no up-sampled image is ever written.
    """

    def __init__(self, channels: int, kernel_initializer: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self.channels, self.kernel_initializer = channels, kernel_initializer

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make a 3×3 kernel and a bias."""
        self.kernel = self.add_weight(
            shape=(3, 3, input_shape[-1], self.channels), initializer=self.kernel_initializer, name="kernel"
        )
        self.bias = self.add_weight(shape=(self.channels,), initializer="zeros", name="bias")

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Return the convolved large image."""
        kernel, bias = (tf.cast(variable, self.compute_dtype) for variable in (self.kernel, self.bias))
        repeated = tf.constant(REPEATED, kernel.dtype)
        summed = tf.einsum("kd,le,deio->kloi", repeated, repeated, kernel)
        return tf.nn.bias_add(doubling_conv(images, summed, 2 * images.shape[1]), bias)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return [B, 2H, 2W, O]."""
        batch, height, width, _ = input_shape
        return (batch, 2 * height, 2 * width, self.channels)


class LabelRows(keras.layers.Layer):  # type: ignore[misc]
    """A vector of its own for each label: labels int32 [B] to [B, D].

    A product with the one-hot labels and not a look-up: its gradient is dense, so it is summed over replicas like any other.
    """

    def __init__(self, classes: int, length: int, initializer: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.classes, self.length, self.initializer = classes, length, initializer

    def build(self, _: tuple[int | None, ...]) -> None:
        """Make the rows."""
        self.rows = self.add_weight(shape=(self.classes, self.length), initializer=self.initializer, name="rows")

    def call(self, labels: tf.Tensor) -> tf.Tensor:
        """Return the row of each label."""
        return tf.matmul(tf.one_hot(labels, self.classes, dtype=self.compute_dtype), tf.cast(self.rows, self.compute_dtype))

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return [B, D]."""
        return (input_shape[0], self.length)
