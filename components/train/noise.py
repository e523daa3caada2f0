"""Noise and data order as functions of seed, round and index.

They are the same on every device, for any number of replicas, and after any interruption.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.train.threefry import normal, threefry, uniform, words

KIND = "threefry-2x32"  # checkpoints record it
FIXED_LATENTS = 2**31 - 1  # the "round" whose noise is used for sample grids; no training reaches it
ORDER = np.uint32(2**32 - 1)  # the second word of the counters of the data order; no noise of a round reaches it


class Rows(NamedTuple):
    """The rows [first, first + length) of a global batch that belong to a replica."""

    first: int | tf.Tensor
    length: int | tf.Tensor

    def of(self, whole: tf.Tensor, axis: int = 0) -> tf.Tensor:
        """Return these rows of a global batch, along `axis`."""
        if isinstance(self.first, int) and self.first == 0 and self.length == whole.shape[axis]:
            return whole
        before, after = whole.shape[:axis], whole.shape[axis + 1 :]
        return tf.slice(whole, [0] * len(before) + [self.first] + [0] * len(after), [*before, self.length, *after])


def replica_rows(replica_id: tf.Tensor, replicas: int, global_batch_size: int) -> Rows:
    """Return the rows of a replica: [id·B/N, (id+1)·B/N).

    N replicas train like one because each draws its rows of the noise of the global batch. If a replica drew its own
    noise, equal seeds would give all of them the same, and different seeds would give other noise for each N. See
    docs/decisions/0004.
    """
    rows = global_batch_size // replicas
    return Rows(0 if replicas == 1 else replica_id * rows, rows)


class RoundNoise(NamedTuple):
    """The noise of a round for some rows of the global batch.

    latents [n_critic + 1, b, L], those of the generator step last; alphas [n_critic, b], uniform in [0, 1).
    """

    latents: tf.Tensor
    alphas: tf.Tensor


def round_noise(seed: int, round_index: int | tf.Tensor, rows: Rows, n_critic: int, latents: int) -> RoundNoise:
    """Draw the noise of a round. Each row of a step has `latents` + 1 random words, of which the last one is for alpha."""
    drawn = words(_key(seed, round_index), n_critic + 1, rows.first, rows.length, latents + 1)
    return RoundNoise(normal(drawn[..., :latents]), uniform(drawn[:n_critic, :, latents]))


def fixed_latents(seed: int, count: int, latents: int) -> tf.Tensor:
    """Draw the latents [count, L] of all sample grids of a run."""
    return round_noise(seed, FIXED_LATENTS, Rows(0, count), 0, latents).latents[0]


def _key(seed: int, round_index: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.constant(seed, tf.uint32), tf.cast(round_index, tf.uint32)


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
    """Return the images sorted by 64 random bits of each; equal bits keep their order."""
    key = np.array([[seed], [epoch]], np.uint32)
    high, low = threefry((key[0], key[1]), (np.arange(images, dtype=np.uint32), ORDER), np)
    return np.argsort(high.astype(np.uint64) << 32 | low, kind="stable").astype(np.int32)
