"""The same functions as Keras' own layers, gradients included."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.train.layers import LabelRows, UpConv

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


def test_label_rows_are_a_look_up() -> None:
    layer = LabelRows(4, 3, "zeros")
    layer.build((None,))
    rows = drawn(4, 3).numpy()
    layer.set_weights([rows])
    np.testing.assert_array_equal(layer(tf.constant([2, 0, 2])), rows[[2, 0, 2]])
