"""Our convolutions are Keras' own, and so are their gradients of both orders."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.train import losses
from components.train.layers import DownConv, LabelRows, UpConv, doubling_conv, halving_conv

GENERATOR = np.random.default_rng(5)


def drawn(*shape: int) -> tf.Tensor:
    return tf.constant(GENERATOR.normal(size=shape).astype(np.float32))


def value_and_gradients(function: Any, variables: list[tf.Variable], images: tf.Tensor, upstream: tf.Tensor) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(images)
        result = function(images)
        weighted = tf.reduce_sum(result * upstream)
    return [result, *tape.gradient(weighted, [images, *variables])]


def assert_same(ours: list[tf.Tensor], theirs: list[tf.Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5 * float(tf.reduce_max(tf.abs(other))))


@pytest.mark.parametrize("size", [4, 7, 8])
def test_up_conv_is_up_sampling_and_a_convolution(size: int) -> None:
    ours, theirs = UpConv(6, "glorot_uniform"), keras.layers.Conv2D(6, 3, padding="same")
    ours.build((None, size, size, 5))
    theirs.build((None, 2 * size, 2 * size, 5))
    theirs.set_weights([drawn(3, 3, 5, 6).numpy(), drawn(6).numpy()])
    ours.set_weights(theirs.get_weights())
    images, upstream = drawn(2, size, size, 5), drawn(2, 2 * size, 2 * size, 6)
    plain = value_and_gradients(
        lambda x: theirs(keras.layers.UpSampling2D(2)(x)), [v.value for v in theirs.variables], images, upstream
    )
    assert_same(value_and_gradients(ours, [v.value for v in ours.variables], images, upstream), plain)


@pytest.mark.parametrize("size", [7, 8, 14, 28])
@pytest.mark.parametrize("channels", [1, 3])
def test_down_conv_is_a_strided_convolution(size: int, channels: int) -> None:
    ours, theirs = DownConv(6, "glorot_uniform"), keras.layers.Conv2D(6, 4, strides=2, padding="same")
    for layer in (ours, theirs):
        layer.build((None, size, size, channels))
    theirs.set_weights([drawn(4, 4, channels, 6).numpy(), drawn(6).numpy()])
    ours.set_weights(theirs.get_weights())
    images, half = drawn(2, size, size, channels), -(-size // 2)
    upstream = drawn(2, half, half, 6)
    plain = value_and_gradients(theirs, [v.value for v in theirs.variables], images, upstream)
    assert_same(value_and_gradients(ours, [v.value for v in ours.variables], images, upstream), plain)


@pytest.mark.parametrize("size", [7, 8])
def test_the_two_are_each_others_transpose(size: int) -> None:
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩ for the same kernel."""
    kernel, images, features = drawn(4, 4, 3, 5), drawn(2, size, size, 3), drawn(2, 4, 4, 5)
    left = tf.reduce_sum(halving_conv(images, kernel) * features)
    np.testing.assert_allclose(left, tf.reduce_sum(images * doubling_conv(features, kernel, size)), rtol=1e-5)


def test_the_penaltys_gradient_is_that_of_plain_convolutions() -> None:
    """The second order: the derivative with respect to the kernels of a function of the derivative by the images."""
    kernels = [drawn(4, 4, 2, 4), drawn(4, 4, 4, 6)]
    images = drawn(3, 14, 14, 2)

    def gradient(convolution: Any) -> list[tf.Tensor]:
        def critic(x: tf.Tensor) -> tf.Tensor:
            for kernel in kernels:
                x = tf.nn.leaky_relu(convolution(x, kernel), 0.2)
            return tf.reduce_sum(tf.tanh(x), axis=[1, 2, 3])

        with tf.GradientTape() as tape:
            tape.watch(kernels)
            loss = tf.reduce_mean(losses.penalty(losses.slopes(critic, images)))
        return [loss, *tape.gradient(loss, kernels)]

    assert_same(gradient(halving_conv), gradient(lambda x, kernel: tf.nn.conv2d(x, kernel, 2, "SAME")))


def test_label_rows_are_a_look_up() -> None:
    layer = LabelRows(4, 3, "zeros")
    layer.build((None,))
    rows = drawn(4, 3).numpy()
    layer.set_weights([rows])
    np.testing.assert_array_equal(layer(tf.constant([2, 0, 2])), rows[[2, 0, 2]])
