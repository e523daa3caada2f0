"""The losses of WGAN-GP (per example, float32, unreduced), and the only function that divides by the batch size.

Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", arXiv:1704.00028, Algorithm 1 and equation 3.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

SLOPE_EPSILON = 1e-12  # added under the root, whose derivative is infinite at zero; the slopes of a flat critic are zero


def critic_loss(real_scores: tf.Tensor, fake_scores: tf.Tensor) -> tf.Tensor:
    """Return D(G(z)) - D(x) for each pair; scores and result [B] float32. The mean is the negative Wasserstein gap."""
    return fake_scores - real_scores


def generator_loss(fake_scores: tf.Tensor) -> tf.Tensor:
    """Return -D(G(z)) for each example; [B] float32."""
    return -fake_scores


def mixed_images(real_images: tf.Tensor, fake_images: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
    """Return points on the lines between real and fake images [B, H, W, C]; alpha [B] is uniform in [0, 1), one per example."""
    alpha = alpha[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return alpha * real_images + (1.0 - alpha) * fake_images


def slopes(critic: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """Return the Euclidean norm of the critic's gradient at each image; images [B, H, W, C], result [B], at least float32.

    The critic must treat each example separately (no BatchNorm): only then does the gradient of the sum consist of the
    gradients of the examples.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        scores = critic(images)
    gradients = tape.gradient(scores, images)
    gradients = tf.cast(gradients, tf.float64 if gradients.dtype == tf.float64 else tf.float32)
    return tf.sqrt(tf.reduce_sum(tf.square(gradients), axis=[1, 2, 3]) + SLOPE_EPSILON)


def penalty(slopes: tf.Tensor) -> tf.Tensor:
    """Return (slope - 1)² for each example, without its weight; [B] float32 (equation 3)."""
    return tf.square(slopes - 1.0)


def replica_mean(per_example: tf.Tensor, global_batch_size: int) -> tf.Tensor:
    """Return this replica's part of the global mean: the sum over its examples divided by the global batch size.

    Gradients and reported values are then SUMMED over replicas, which gives the mean over the global batch for any number of
    replicas. Dividing by the replica's batch size instead would make SGD's updates N times too large on N replicas. With Adam,
    which is invariant to scale, the mistake would not show. See docs/decisions/0004.
    """
    return tf.reduce_sum(per_example) / tf.cast(global_batch_size, per_example.dtype)
