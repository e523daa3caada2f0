"""Layers that Keras lacks, or that are faster than those of Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

# The large image repeats each pixel of the small one twice, so several of the 3 taps of a kernel meet the same pixel. Each row
# selects the taps (along one axis) that are summed to one of the 4 taps of a transposed convolution with stride 2.
REPEATED = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)


class UpConv(keras.layers.Layer):  # type: ignore[misc]
    """Nearest-neighbour up-sampling by 2, a 3×3 convolution, minus its mean over channels: [B, H, W, I] to [B, 2H, 2W, O].

    Computes the same as UpSampling2D(2) and Conv2D(O, 3, padding="same") with the same weights, minus the mean of each pixel.
    Taps that meet the same pixel of the small image are summed first, which takes 16 products per pixel and pair of channels
    instead of 36. The up-sampled image is never stored. LayerNorm, which follows everywhere, subtracts the mean anyway; here
    it is subtracted from the kernel and the bias, which are much smaller than the image (docs/decisions/0008).
    """

    def __init__(self, channels: int, kernel_initializer: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self.channels, self.kernel_initializer = channels, kernel_initializer

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create a 3×3 kernel and a bias."""
        self.kernel = self.add_weight(
            shape=(3, 3, input_shape[-1], self.channels), initializer=self.kernel_initializer, name="kernel", autocast=False
        )
        self.bias = self.add_weight(shape=(self.channels,), initializer="zeros", name="bias", autocast=False)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Return the convolved large image."""
        centred = (each.value - tf.reduce_mean(each, -1, keepdims=True) for each in (self.kernel, self.bias))
        kernel, bias = (tf.cast(each, self.compute_dtype) for each in centred)
        repeated = tf.constant(REPEATED, kernel.dtype)
        summed = tf.einsum("kd,le,deio->kloi", repeated, repeated, kernel)
        _, height, width, _ = images.shape
        shape = [tf.shape(images)[0], 2 * height, 2 * width, self.channels]
        return tf.nn.bias_add(tf.nn.conv2d_transpose(images, summed, shape, 2, "SAME"), bias)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return [B, 2H, 2W, O]."""
        batch, height, width, _ = input_shape
        return (batch, 2 * height, 2 * width, self.channels)


class Leaky(keras.layers.Layer):  # type: ignore[misc]
    """LeakyReLU (Maas et al. 2013), x where x > 0 and slope·x elsewhere, without a second derivative, which is zero.

    TensorFlow's own returns zeros, which the gradient of the penalty then propagates through all earlier layers: a tenth of
    a round's convolutions. Values, gradients and the gradients of the penalty are the same.
    """

    def __init__(self, slope: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.slope = slope

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Return the activations, of the shape of `x`."""

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def leaky(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
            y = tf.nn.leaky_relu(x, self.slope)
            # y has the same signs as x, so in float32 x need not stay in memory. XLA keeps the signs of x as bits, but does not
            # see that those of y are the same: with y, a TPU would read all features again (docs/tpu.md).
            signs = x if self.compute_dtype == "bfloat16" else y
            return y, lambda upstream: scaled(upstream, signs)

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def scaled(upstream: tf.Tensor, signs: tf.Tensor) -> tuple[tf.Tensor, Any]:
            """Multiply by 1 or slope: linear in `upstream`, constant in `signs`."""
            if upstream.dtype == tf.bfloat16:
                # TensorFlow's kernel for bfloat16 on CPUs takes seven times as long as this. The result is the same to the last
                # bit: float32 holds the product of two bfloat16 numbers, which is then rounded once.
                slope = float(tf.bfloat16.as_numpy_dtype(self.slope))
                wide = tf.raw_ops.LeakyReluGrad(
                    gradients=tf.cast(upstream, tf.float32), features=tf.cast(signs, tf.float32), alpha=slope
                )
                product = tf.cast(wide, tf.bfloat16)
            else:
                product = tf.raw_ops.LeakyReluGrad(gradients=upstream, features=signs, alpha=self.slope)
            return product, lambda second: (scaled(second, signs), None)

        return leaky(x)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the shape of `x`."""
        return input_shape


class OnePassNorm(keras.layers.LayerNormalization):  # type: ignore[misc]
    """Keras' LayerNormalization over the last axis, with statistics in one pass over the features instead of two.

    Keras computes the mean and then the mean of (x - mean)². Here the variance is the mean of x² minus the squared mean. If the
    mean is much larger than the standard deviation, this loses digits, but far fewer than rounding x to bfloat16 has lost
    before. So it is for features that were rounded to bfloat16, or whose mean is zero (`centred`), as those of UpConv.
    """

    def __init__(self, centred: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.centred = centred

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the normalized features, of the shape of `inputs`."""
        x = tf.cast(inputs, tf.float32) if inputs.dtype == tf.bfloat16 else inputs
        variance = tf.reduce_mean(tf.square(x), -1, keepdims=True)
        if not self.centred:
            mean = tf.reduce_mean(x, -1, keepdims=True)
            variance = tf.maximum(variance - tf.square(mean), 0.0)
            x -= mean
        inverse = tf.math.rsqrt(variance + self.epsilon)
        x *= inverse * self.gamma if self.scale else inverse
        return tf.cast(x + self.beta if self.center else x, self.compute_dtype)


class LabelRows(keras.layers.Layer):  # type: ignore[misc]
    """One vector per label: labels int32 [B] to [B, D].

    It multiplies with the one-hot labels instead of a lookup, so its gradient is dense and is summed over replicas like others.
    """

    def __init__(self, classes: int, length: int, initializer: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.classes, self.length, self.initializer = classes, length, initializer

    def build(self, _: tuple[int | None, ...]) -> None:
        """Create the rows."""
        self.rows = self.add_weight(shape=(self.classes, self.length), initializer=self.initializer, name="rows")

    def call(self, labels: tf.Tensor) -> tf.Tensor:
        """Return the row of each label."""
        return tf.matmul(tf.one_hot(labels, self.classes, dtype=self.compute_dtype), tf.cast(self.rows, self.compute_dtype))

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return [B, D]."""
        return (input_shape[0], self.length)
