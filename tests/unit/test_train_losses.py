"""The losses against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from components.train import losses


@pytest.fixture
def images() -> tf.Tensor:
    return tf.constant(np.random.default_rng(1).normal(size=(5, 4, 4, 2)), tf.float32)


def test_slopes_of_a_linear_critic_are_the_norm_of_its_weights(images: tf.Tensor) -> None:
    weights = tf.constant(np.random.default_rng(2).normal(size=(4, 4, 2)), tf.float32)
    slopes = losses.slopes(lambda x: tf.reduce_sum(x * weights, axis=[1, 2, 3]), images)
    np.testing.assert_allclose(slopes, np.full(5, np.linalg.norm(weights)), rtol=1e-6)


def test_slopes_of_a_quadratic_critic_are_twice_the_norm_of_the_image(images: tf.Tensor) -> None:
    slopes = losses.slopes(lambda x: tf.reduce_sum(x**2, axis=[1, 2, 3]), images)
    np.testing.assert_allclose(slopes, 2 * np.linalg.norm(images.numpy().reshape(5, -1), axis=1), rtol=1e-6)


def test_penalty_gradient_of_a_linear_critic(images: tf.Tensor) -> None:
    """d/dw (|w| - 1)² = 2 (|w| - 1) w / |w|."""
    weights = tf.Variable(np.random.default_rng(3).normal(size=(4, 4, 2)).astype(np.float32))
    with tf.GradientTape() as tape:
        slopes = losses.slopes(lambda x: tf.reduce_sum(x * weights, axis=[1, 2, 3]), images)
        loss = losses.replica_mean(losses.penalty(slopes), 5)
    norm = np.linalg.norm(weights)
    np.testing.assert_allclose(tape.gradient(loss, weights), 2 * (norm - 1) * weights / norm, rtol=1e-5)


def test_a_flat_critic_has_penalty_one_and_no_gradient(images: tf.Tensor) -> None:
    weight = tf.Variable(0.0)
    with tf.GradientTape() as tape:
        slopes = losses.slopes(lambda x: weight * tf.reduce_sum(x, axis=[1, 2, 3]), images)
        loss = losses.replica_mean(losses.penalty(slopes), 5)
    np.testing.assert_allclose(loss, 1.0, atol=1e-5)
    assert tape.gradient(loss, weight).numpy() == 0.0


def test_replica_mean_sums_to_the_global_mean_over_uneven_parts() -> None:
    values = tf.constant([1.0, 2.0, 3.0, 4.0, 10.0])
    parts = losses.replica_mean(values[:2], 5) + losses.replica_mean(values[2:], 5)
    np.testing.assert_allclose(parts, 4.0, rtol=1e-6)


def test_signs_critic_wants_real_above_fake_and_generator_wants_fake_up() -> None:
    real_scores, fake_scores = tf.constant([3.0, 1.0]), tf.constant([1.0, 2.0])
    np.testing.assert_array_equal(losses.critic_loss(real_scores, fake_scores), [-2.0, 1.0])
    np.testing.assert_array_equal(losses.generator_loss(fake_scores), [-1.0, -2.0])


def test_mixed_images_lie_between_with_one_alpha_an_example() -> None:
    real, fake = tf.ones([2, 2, 2, 1]), tf.zeros([2, 2, 2, 1])
    mixed = losses.mixed_images(real, fake, tf.constant([0.25, 1.0]))
    np.testing.assert_array_equal(mixed[0], np.full((2, 2, 1), 0.25))
    np.testing.assert_array_equal(mixed[1], np.ones((2, 2, 1)))
