"""The layers compute the same values and gradients as those of Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.train.layers.activations import Leaky, Normalised
from components.train.layers.labels import LabelRows
from components.train.layers.strided import StridedConv, UpConv
from components.train.layers.to_image import ToImage

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


ON_CPU = pytest.mark.parametrize("on_cpu", [False, True])


@ON_CPU
@pytest.mark.parametrize("size", [4, 7, 8])
def test_up_conv_is_up_sampling_and_a_convolution_minus_its_mean(size: int, on_cpu: bool) -> None:
    ours, theirs = UpConv(6, "glorot_uniform", on_cpu), keras.layers.Conv2D(6, 3, padding="same", use_bias=False)
    ours.build((None, size, size, 5))
    theirs.build((None, 2 * size, 2 * size, 5))
    theirs.set_weights([drawn(3, 3, 5, 6).numpy()])
    ours.set_weights(theirs.get_weights())
    images, upstream = drawn(2, size, size, 5), drawn(2, 2 * size, 2 * size, 6)

    def centred(x: tf.Tensor) -> tf.Tensor:
        y = theirs(keras.layers.UpSampling2D(2)(x))
        return y - tf.reduce_mean(y, -1, keepdims=True)

    plain = value_and_gradients(centred, [v.value for v in theirs.variables], images, upstream)
    assert_same(value_and_gradients(ours, [v.value for v in ours.variables], images, upstream), plain)


def penalty_gradients(activation: keras.layers.Layer, images: tf.Tensor) -> tuple[list[tf.Tensor], int]:
    """Return the gradients of the penalty of a critic with two convolutions, and how many convolutions they need."""
    first, second = (keras.initializers.GlorotUniform(seed) for seed in (1, 2))
    layers = [keras.layers.Conv2D(4, 3, 2, kernel_initializer=initializer) for initializer in (first, second)]
    score = keras.layers.Dense(1, kernel_initializer=first)
    critic = keras.Sequential([layers[0], activation, layers[1], keras.layers.Flatten(), score])
    critic(images)
    kernels = [layer.kernel.value for layer in layers]

    @tf.function
    def gradients(images: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(images)
                scores = critic(images)
            slopes = tf.norm(tf.reshape(inner.gradient(scores, images), [len(images), -1]), axis=1)
            loss = tf.reduce_sum((slopes - 1.0) ** 2)
        return tape.gradient(loss, kernels)

    return gradients(images), live_convolutions(gradients.get_concrete_function(images).graph)


def live_convolutions(graph: Any) -> int:
    """Return the number of convolutions that the outputs of a graph depend on."""
    wanted, reached = [output.op for output in graph.outputs], {}
    while wanted:
        operation = wanted.pop()
        if operation.name not in reached:
            reached[operation.name] = operation.type
            wanted += [tensor.op for tensor in operation.inputs]
    return sum(kind.startswith("Conv2D") for kind in reached.values())


def test_leaky_is_leaky_relu_in_values_gradients_and_the_penaltys_gradients() -> None:
    images, upstream = drawn(3, 9, 9, 2), drawn(3, 9, 9, 2)
    ours, theirs = Leaky(0.2), keras.layers.LeakyReLU(0.2)
    assert_same(value_and_gradients(ours, [], images, upstream), value_and_gradients(theirs, [], images, upstream))
    mine, my_convolutions = penalty_gradients(ours, images)
    others, their_convolutions = penalty_gradients(theirs, images)
    assert_same(mine, others)
    assert my_convolutions < their_convolutions  # the purpose of Leaky: zeros are not convolved


@ON_CPU
def test_leaky_in_bfloat16_has_the_gradients_of_tensorflows_kernel_to_the_last_bit(on_cpu: bool) -> None:
    x, upstream = (tf.cast(drawn(4, 9, 9, 2), tf.bfloat16) for _ in range(2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = Leaky(0.2, on_cpu, dtype="mixed_bfloat16")(x)
    expected = tf.raw_ops.LeakyReluGrad(gradients=upstream, features=x, alpha=0.2)
    np.testing.assert_array_equal(tape.gradient(y, x, upstream), expected)


def test_label_rows_are_a_lookup() -> None:
    layer = LabelRows(4, 3, "zeros")
    layer.build((None,))
    rows = drawn(4, 3).numpy()
    layer.set_weights([rows])
    np.testing.assert_array_equal(layer(tf.constant([2, 0, 2])), rows[[2, 0, 2]])


def strided_derivatives(
    layer: keras.layers.Layer, images: tf.Tensor, upstream: tf.Tensor, second: tf.Tensor
) -> list[tf.Tensor]:
    """Return the values of a convolution, its gradients, and those of its gradient for the images times `second`."""
    kernel = layer.kernel.value
    with tf.GradientTape() as outer:
        outer.watch([images, upstream])
        first = value_and_gradients(layer, [kernel], images, upstream)
        weighted = tf.reduce_sum(tf.cast(first[1] * second, tf.float32)) + tf.reduce_sum(
            tf.square(tf.cast(first[2], tf.float32))
        )
    return [*first, *outer.gradient(weighted, [images, kernel, upstream])]


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [7, 8, 14, 28])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_strided_conv_is_a_convolution_in_values_first_and_second_derivatives(size: int, channels: int, dtype: str) -> None:
    pair = [kind(6, 4, 2, "same", dtype=dtype) for kind in (StridedConv, keras.layers.Conv2D)]
    weights = [drawn(4, 4, channels, 6).numpy(), drawn(6).numpy()]
    small, compute = -(-size // 2), pair[0].compute_dtype
    shapes = ((3, size, size, channels), (3, small, small, 6), (3, size, size, channels))
    images, upstream, second = (tf.cast(drawn(*shape), compute) for shape in shapes)
    both = []
    for layer in pair:
        layer.build(images.shape)
        layer.set_weights(weights)
        both.append([tf.cast(each, tf.float32) for each in strided_derivatives(layer, images, upstream, second)])
    if dtype == "float32":
        assert_same(*both)
    else:
        for one, other in zip(*both, strict=True):  # a sum is rounded to 8 bits, and so are the gradients it is made of
            np.testing.assert_allclose(one, other, rtol=0, atol=0.02 * float(tf.reduce_max(tf.abs(other))))


@pytest.mark.parametrize(("dtype", "error"), [("float32", 2e-5), ("mixed_bfloat16", 0.03)])
def test_to_image_is_a_convolution_and_tanh(dtype: str, error: float) -> None:
    ours, theirs = ToImage("zeros", dtype=dtype), keras.layers.Conv2D(1, 3, padding="same", dtype=dtype)
    features, upstream = tf.cast(drawn(2, 7, 7, 16), ours.compute_dtype), drawn(2, 7, 7, 1)
    for layer in (ours, theirs):
        layer.build((None, 7, 7, 16))
    theirs.set_weights([0.1 * drawn(3, 3, 16, 1).numpy(), drawn(1).numpy()])
    ours.set_weights(theirs.get_weights())
    plain = lambda x: tf.tanh(tf.cast(theirs(x), tf.float32))  # noqa: E731
    both = [
        value_and_gradients(run, [each.value for each in layer.variables], features, upstream)
        for run, layer in ((ours, ours), (plain, theirs))
    ]
    for one, other in zip(*both, strict=True):
        other = tf.cast(other, tf.float32)
        np.testing.assert_allclose(tf.cast(one, tf.float32), other, rtol=0, atol=error * float(tf.reduce_max(tf.abs(other))))


class Norm(Normalised):
    """Without an activation."""

    def __init__(self, biased: bool = False, on_cpu: bool = False, **settings: Any) -> None:
        super().__init__(keras.layers.Activation("linear", **settings), biased, True, on_cpu, **settings)


def norm_pair(channels: int, on_cpu: bool = False, dtype: str = "float32") -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """Return our normalization and that of Keras with the same gain and offset."""
    pair = (Norm(on_cpu=on_cpu, dtype=dtype), keras.layers.LayerNormalization(epsilon=1e-5, dtype=dtype))
    gain_and_offset = [GENERATOR.normal(size=channels).astype(np.float32) + shift for shift in (1.0, 0.0)]
    for layer in pair:
        layer.build((None, 5, 5, channels))
        layer.set_weights(gain_and_offset)
    return pair


@ON_CPU
@pytest.mark.parametrize("channels", [8, 64, 512])
def test_normalised_is_layer_normalization_in_values_and_gradients(channels: int, on_cpu: bool) -> None:
    pair = norm_pair(channels, on_cpu)
    features, upstream = drawn(2, 5, 5, channels) + 0.5 * drawn(2, 5, 5, 1), drawn(2, 5, 5, channels)
    both = [value_and_gradients(layer, [each.value for each in layer.variables], features, upstream) for layer in pair]
    assert_same(*both)


@ON_CPU
def test_normalised_with_the_gain_and_offset_of_labels(on_cpu: bool) -> None:
    ours, theirs = Normalised(Leaky(0.2), False, False, on_cpu), keras.layers.LayerNormalization(epsilon=1e-5)
    features, upstream, gain, offset = drawn(2, 5, 5, 8), drawn(2, 5, 5, 8), drawn(2, 1, 1, 8), drawn(2, 1, 1, 8)
    theirs.build(features.shape)
    plain = lambda inputs: tf.nn.leaky_relu(theirs(inputs[0]) * inputs[1] + inputs[2], 0.2)  # noqa: E731
    ours.build([each.shape for each in (features, gain, offset)])
    both = []
    for run in (ours, plain):
        with tf.GradientTape() as tape:
            tape.watch([features, gain, offset])
            result = run([features, gain, offset])
        both.append([result, *tape.gradient(result, [features, gain, offset], upstream)])
    assert_same(*both)


@ON_CPU
@pytest.mark.parametrize("channels", [8, 64, 512])
def test_normalised_after_up_conv_is_layer_normalization_of_convolution_and_bias(channels: int, on_cpu: bool) -> None:
    """The gradients differ by a mean over channels, which UpConv takes out."""
    conv, ours, theirs = (
        UpConv(channels, "glorot_uniform", on_cpu),
        Norm(True, on_cpu),
        keras.layers.LayerNormalization(epsilon=1e-5),
    )
    images, upstream, bias = drawn(2, 5, 5, 3), drawn(2, 10, 10, channels), tf.Variable(drawn(channels))
    for layer in (ours, theirs):
        layer.build(conv(images).shape)
    ours.bias.assign(bias)
    both = [
        value_and_gradients(run, [conv.kernel.value, shift, *(each.value for each in layer.variables[-2:])], images, upstream)
        for run, shift, layer in (
            (lambda x: ours(conv(x)), ours.bias.value, ours),
            (lambda x: theirs(conv(x) + bias), bias, theirs),
        )
    ]
    assert_same(*both)


@pytest.mark.parametrize("mean", [0.0, 1.0, 10.0, 100.0])
def test_normalised_loses_less_than_the_rounding_of_its_input(mean: float) -> None:
    """The reference is the normalization in float64 of the features before they are rounded to bfloat16."""
    ours, theirs = norm_pair(64, dtype="mixed_bfloat16")
    features = GENERATOR.normal(size=(4, 5, 5, 64)) + mean
    gain, offset = (weights.astype(np.float64) for weights in theirs.get_weights())
    exact = (features - features.mean(-1, keepdims=True)) / np.sqrt(features.var(-1, keepdims=True) + 1e-5) * gain + offset
    errors = [np.abs(tf.cast(layer(tf.constant(features, tf.bfloat16)), tf.float64) - exact).max() for layer in (ours, theirs)]
    assert errors[0] <= 1.05 * errors[1]


@ON_CPU
def test_normalised_of_equal_features_is_finite(on_cpu: bool) -> None:
    layer, _ = norm_pair(64, on_cpu, dtype="mixed_bfloat16")
    features = tf.fill([1, 5, 5, 64], tf.constant(333.0, tf.bfloat16))
    assert all(np.isfinite(each).all() for each in value_and_gradients(layer, [], features, features))
