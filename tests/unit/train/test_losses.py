"""Types, signs and division of the losses. tests/reference/test_wgan_mathematics.py tests their mathematics."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from components.train import losses


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_slopes_are_at_least_float32(dtype: str, expected: str) -> None:
    images = tf.cast(np.random.default_rng(1).normal(size=(5, 4, 4, 2)), dtype)
    weights = tf.cast(np.random.default_rng(2).normal(size=(4, 4, 2)), dtype)
    slopes = losses.slopes(lambda x: tf.reduce_sum(x * weights, axis=[1, 2, 3]), images)
    assert slopes.dtype == expected
    assert slopes.shape == [5]
    norm = np.linalg.norm(tf.cast(weights, tf.float64))
    np.testing.assert_allclose(slopes, np.full(5, norm), rtol=1e-12 if expected == "float64" else 1e-6)


def test_replica_mean_sums_to_the_global_mean_over_uneven_parts() -> None:
    values = tf.constant([1.0, 2.0, 3.0, 4.0, 10.0])
    parts = losses.replica_mean(values[:2], 5) + losses.replica_mean(values[2:], 5)
    np.testing.assert_allclose(parts, 4.0, rtol=1e-6)


def test_signs_of_the_losses() -> None:
    real_scores, fake_scores = tf.constant([3.0, 1.0]), tf.constant([1.0, 2.0])
    np.testing.assert_array_equal(losses.critic_loss(real_scores, fake_scores), [-2.0, 1.0])
    np.testing.assert_array_equal(losses.generator_loss(fake_scores), [-1.0, -2.0])


def test_mixed_images_have_one_alpha_per_example() -> None:
    real, fake = tf.ones([2, 2, 2, 1]), tf.zeros([2, 2, 2, 1])
    mixed = losses.mixed_images(real, fake, tf.constant([0.25, 1.0]))
    np.testing.assert_array_equal(mixed[0], np.full((2, 2, 1), 0.25))
    np.testing.assert_array_equal(mixed[1], np.ones((2, 2, 1)))
