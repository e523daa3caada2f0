"""Networks for all image sizes and numbers of channels."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from components.train.config import TrainConfig
from components.train.networks import ImageShape, layer_channels, make_critic, make_generator
from components.train.step import to_float, to_uint8

SMALL = TrainConfig(latents=4, generator_channels=4, critic_channels=4)


@pytest.mark.parametrize("size", [8, 16, 28, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("networks", ["plain", "residual"])
def test_shapes(size: int, channels: int, classes: int, networks: str) -> None:
    config = TrainConfig(latents=4, generator_channels=2, critic_channels=2, networks=networks)
    shape = ImageShape(size, channels, classes)
    labels = [tf.zeros([2], tf.int32)] if classes else []
    generator, critic = make_generator(shape, config), make_critic(shape, config)
    images = generator([tf.zeros([2, 4]), *labels] if classes else tf.zeros([2, 4]))
    assert (images.shape, images.dtype) == ((2, size, size, channels), tf.float32)
    scores = critic([images, *labels] if classes else images)
    assert (scores.shape, scores.dtype) == ((2,), tf.float32)


def test_bfloat16_layers_keep_float32_weights_and_scores() -> None:
    critic = make_critic(ImageShape(8, 1), SMALL, "mixed_bfloat16")
    assert critic(tf.zeros([2, 8, 8, 1])).dtype == tf.float32
    assert {str(variable.dtype) for variable in critic.variables} == {"float32"}
    assert critic.get_layer("conv_0").compute_dtype == "bfloat16"
    conditional = make_critic(ImageShape(8, 1, 3), SMALL, "mixed_bfloat16")
    last = [critic.get_layer("score"), *(conditional.get_layer(name) for name in ("score", "label_vector", "projection"))]
    assert {layer.compute_dtype for layer in last} == {"float32"}


def test_an_unsupported_size_is_refused() -> None:
    with pytest.raises(ValueError, match="image size 30 is neither"):
        layer_channels(30, 8)


def test_weights_depend_only_on_the_seed() -> None:
    def first(seed: int) -> np.ndarray:
        config = SMALL.model_copy(update={"seed": seed})
        return make_generator(ImageShape(8, 1), config).get_weights()[0]

    np.testing.assert_array_equal(first(1), first(1))
    assert (first(1) != first(2)).any()


def test_examples_are_independent() -> None:
    """Otherwise, training would depend on which examples share a replica."""
    generator = make_generator(ImageShape(8, 1), SMALL)
    latents = tf.random.stateless_normal([6, 4], [0, 0])
    np.testing.assert_allclose(generator(latents, training=True)[:2], generator(latents[:2], training=True), atol=1e-6)


def test_conversion_to_float_and_back_is_exact() -> None:
    every = tf.reshape(tf.range(256, dtype=tf.int32), [1, 16, 16, 1])
    np.testing.assert_array_equal(to_uint8(to_float(tf.cast(every, tf.uint8))), every)
