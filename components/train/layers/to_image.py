"""The last layer of the generator."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from components.train.layers.fused import fuse


class ToImage(keras.layers.Layer):  # type: ignore[misc]
    """A 3×3 convolution to one channel, and tanh: [B, H, W, I] to [B, H, W, 1] float32.

    The convolution is a matrix product to 9 maps, which are shifted and added.
    """

    def __init__(self, kernel_initializer: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self.kernel_initializer = kernel_initializer
        self.add_shifted = fuse(_tanh_of_shifted)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create a 3×3 kernel and a bias."""
        self.kernel = self.add_weight(
            shape=(3, 3, input_shape[-1], 1), initializer=self.kernel_initializer, name="kernel", autocast=False
        )
        self.bias = self.add_weight(shape=(1,), initializer="zeros", name="bias", autocast=False)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Return the images."""
        batch, height, width, channels = features.shape
        taps = tf.cast(tf.reshape(self.kernel, [9, channels]), features.dtype)
        maps = tf.matmul(taps, tf.reshape(features, [-1, channels]), transpose_b=True)
        return self.add_shifted(tf.reshape(maps, [3, 3, batch, height, width]), tf.convert_to_tensor(self.bias))[
            ..., tf.newaxis
        ]

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return [B, H, W, 1]."""
        return (*input_shape[:-1], 1)


def _tanh_of_shifted(maps: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Return tanh of the bias and the sum of maps [3, 3, B, H, W], each shifted by the place of its tap: [B, H, W] float32."""
    height, width = maps.shape[-2:]
    padded = tf.pad(tf.cast(maps, tf.float32), [[0, 0], [0, 0], [0, 0], [1, 1], [1, 1]])
    shifted = [padded[row, column, :, row : row + height, column : column + width] for row in range(3) for column in range(3)]
    return tf.tanh(tf.add_n(shifted) + bias)
