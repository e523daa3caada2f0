"""Leaky ReLU, and layer normalization with it."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from components.train.layers.fused import by_channel, fuse

NORM_EPSILON = 1e-5  # added to the variance of LayerNorm


class Leaky(keras.layers.Layer):  # type: ignore[misc]
    """LeakyReLU (Maas et al. 2013), x where x > 0 and slope·x elsewhere, without a second derivative, which is zero.

    TensorFlow's own returns zeros, which the gradient of the penalty then propagates through all earlier layers: a tenth of
    a round's convolutions. Values, gradients and the gradients of the penalty are the same.
    """

    def __init__(self, slope: float, on_cpu: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.slope, self.on_cpu = slope, on_cpu

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
                slope = float(tf.bfloat16.as_numpy_dtype(self.slope))
                product = (_scaled_in_a_loop if self.on_cpu else _scaled)(upstream, signs, slope)
            else:
                product = tf.raw_ops.LeakyReluGrad(gradients=upstream, features=signs, alpha=self.slope)
            return product, lambda second: (scaled(second, signs), None)

        return leaky(x)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the shape of `x`."""
        return input_shape


def _scaled(upstream: tf.Tensor, signs: tf.Tensor, slope: float) -> tf.Tensor:
    """Do what LeakyReluGrad does in bfloat16, to the last bit: float32 holds the product, which is then rounded once.

    TensorFlow's kernel for bfloat16 on CPUs takes many times as long, and the program of a TPU would read more memory.
    """
    gradients, features = (tf.cast(each, tf.float32) for each in (upstream, signs))
    return tf.cast(tf.raw_ops.LeakyReluGrad(gradients=gradients, features=features, alpha=slope), tf.bfloat16)


_scaled_in_a_loop = tf.function(_scaled, jit_compile=True, autograph=False)


class Normalised(keras.layers.Layer):  # type: ignore[misc]
    """LayerNorm over channels (Ba et al. 2016, arXiv:1607.06450), and an activation of its result: [B, H, W, C] to the same.

    With `biased`, the features come from UpConv: their mean is zero, and a bias is added first, minus its own mean. Without
    `affine`, gain and offset are inputs [B, 1, 1, C] instead of weights [C].

    Keras computes the mean and then the mean of (x - mean)². For features that were rounded to bfloat16, the variance here is
    the mean of x² minus the squared mean, for which one pass over the features is enough. If the mean is much larger than the
    standard deviation, this loses digits, but far fewer than the rounding has lost before. So it is for features of mean zero.
    """

    def __init__(self, activation: keras.layers.Layer, biased: bool, affine: bool, on_cpu: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self.activation, self.biased, self.affine = activation, biased, affine
        self.scale = by_channel if on_cpu else lambda x, gain, offset: x * gain + offset
        self.run = fuse(self.normalised) if on_cpu else self.normalised

    def build(self, input_shape: Any) -> None:
        """Create bias, gain and offset, as far as this layer has them."""
        shape = (input_shape[-1] if self.affine else input_shape[0][-1],)
        if self.biased:
            self.bias = self.add_weight(shape=shape, initializer="zeros", name="bias", autocast=False)
        if self.affine:
            self.gamma = self.add_weight(shape=shape, initializer="ones", name="gamma", autocast=False)
            self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta", autocast=False)

    def call(self, inputs: Any) -> tf.Tensor:
        """Return the activations, of the shape of the features."""
        x, gain, offset = (inputs, self.gamma.value, self.beta.value) if self.affine else inputs
        bias = [self.bias.value - tf.reduce_mean(self.bias)] if self.biased else []
        return self.run(x, *(tf.convert_to_tensor(each) for each in (gain, offset, *bias)))

    def normalised(self, features: tf.Tensor, gain: tf.Tensor, offset: tf.Tensor, *bias: tf.Tensor) -> tf.Tensor:
        """Return the activations of features [B, H, W, C]; gain, offset and bias have their channels."""
        rounded = features.dtype == tf.bfloat16
        x, gain, offset = (tf.cast(each, tf.float32) if rounded else each for each in (features, gain, offset))
        if bias:
            x += bias[0]
            variance = tf.reduce_mean(tf.square(x), -1, keepdims=True)
        elif rounded:
            mean = tf.reduce_mean(x, -1, keepdims=True)
            variance = tf.maximum(tf.reduce_mean(tf.square(x), -1, keepdims=True) - tf.square(mean), 0.0)
            x -= mean
        else:
            x -= tf.reduce_mean(x, -1, keepdims=True)
            variance = tf.reduce_mean(tf.square(x), -1, keepdims=True)
        x *= tf.math.rsqrt(variance + NORM_EPSILON)
        return self.activation(tf.cast(self.scale(x, gain, offset), features.dtype))

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Return the shape of the features."""
        return input_shape if self.affine else input_shape[0]  # type: ignore[no-any-return]
