"""Noise and data order as functions of seed and round: the same for any number of replicas and after any interruption."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

FIXED_LATENTS = 2**31 - 1  # the "round" whose noise is used for sample grids; no training reaches it


class CriticNoise(NamedTuple):
    """Latents [B, L] and interpolation weights alpha [B] of a global batch."""

    latents: tf.Tensor
    alpha: tf.Tensor


def round_seed(seed: int | tf.Tensor, round_index: int | tf.Tensor) -> tf.Tensor:
    """Return the seed, int32 [2], of all noise in a round."""
    start = tf.stack([tf.cast(seed, tf.int32), tf.zeros([], tf.int32)])
    return tf.random.fold_in(start, tf.cast(round_index, tf.int32))


def critic_noise(seed: tf.Tensor, critic_index: int, global_batch_size: int, latents: int) -> CriticNoise:
    """Draw the noise of one critic step for the global batch."""
    step_seed = tf.random.fold_in(seed, critic_index)
    alpha_seed = tf.random.fold_in(step_seed, 1)
    alpha = tf.random.stateless_uniform([global_batch_size], alpha_seed, alg="philox")
    return CriticNoise(_normal(tf.random.fold_in(step_seed, 0), global_batch_size, latents), alpha)


def generator_latents(seed: tf.Tensor, n_critic: int, global_batch_size: int, latents: int) -> tf.Tensor:
    """Draw the latents [B, L] of the generator step for the global batch; its index follows those of the critic steps."""
    return _normal(tf.random.fold_in(seed, n_critic), global_batch_size, latents)


def fixed_latents(seed: int, count: int, latents: int) -> tf.Tensor:
    """Draw the latents [count, L] of all sample grids of a run."""
    return _normal(round_seed(seed, FIXED_LATENTS), count, latents)


def replica_rows(whole: tf.Tensor, replica_id: tf.Tensor, replicas: int) -> tf.Tensor:
    """Return this replica's rows of a global batch: rows [id·B/N, (id+1)·B/N) along the first axis.

    N replicas train like one because the noise is drawn for the global batch and then sliced. If each replica drew its own
    noise, equal seeds would give all of them the same, and different seeds would give other noise for each N. See
    docs/decisions/0004.
    """
    if replicas == 1:
        return whole
    rows = whole.shape[0] // replicas
    return tf.slice(whole, [replica_id * rows] + [0] * (whole.shape.rank - 1), [rows, *whole.shape[1:]])


def _normal(seed: tf.Tensor, count: int, latents: int) -> tf.Tensor:
    # Philox is named because "auto" depends on the device, and a run may move to another device.
    return tf.random.stateless_normal([count, latents], seed, alg="philox")


def batch_indices(seed: int, images: int, first_batch: int, batches: int, batch_size: int) -> npt.NDArray[np.int32]:
    """Return the data order of consecutive batches, [batches, batch_size] indices into the dataset.

    Each epoch is another permutation. Batches continue across epochs, so all images are seen equally often. Any batch can be
    computed without the ones before it.
    """
    positions = np.arange(first_batch * batch_size, (first_batch + batches) * batch_size)
    epochs, within = np.divmod(positions, images)
    order = np.empty(len(positions), np.int32)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        order[here] = _epoch_permutation(seed, int(epoch), images)[within[here]]
    return order.reshape(batches, batch_size)


@lru_cache(maxsize=4)
def _epoch_permutation(seed: int, epoch: int, images: int) -> npt.NDArray[np.int32]:
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return generator.permutation(images).astype(np.int32)
