"""Batches of training images and their order: what resident and streamed images have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.common.errors import ArtifactError
from components.dataset.records import NO_LABEL
from components.train import noise

MAX_CLASSES = 65_536
ALIGNMENT_BYTES = 64  # EIGEN_MAX_ALIGN_BYTES; TensorFlow aborts the process if a tensor's memory is less aligned

Shape = tuple[int, int, int]


class RoundBatches(NamedTuple):
    """The batches of one round, global or of a replica: images uint8 [n_critic, B, H, W, C], labels int32 [n_critic, B]."""

    images: tf.Tensor
    labels: tf.Tensor

    def of(self, rows: noise.Rows) -> RoundBatches:
        """Return a replica's rows of the global batches."""
        return RoundBatches(rows.of(self.images, axis=1), rows.of(self.labels, axis=1))


class Order(NamedTuple):
    """The order of the images, which depends on these four numbers only."""

    seed: int
    images: int
    n_critic: int
    batch_size: int

    def indices(self, first_round: int, rounds: int) -> npt.NDArray[np.int32]:
        """Return the indices of the images of consecutive rounds, [rounds, n_critic, B]."""
        first_batch, batches = first_round * self.n_critic, rounds * self.n_critic
        order = noise.batch_indices(self.seed, self.images, first_batch, batches, self.batch_size)
        return order.reshape(rounds, self.n_critic, self.batch_size)


def aligned_empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an uninitialized array whose memory a tensor can share."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT_BYTES, np.uint8)
    skip = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[skip : skip + size].view(dtype).reshape(shape)


def shared_tensor(array: npt.NDArray[Any]) -> tf.Tensor:
    """Return a CPU tensor that shares the memory of `array`, or of a copy if `array` is unaligned or read-only.

    tf.constant always copies, so the dataset would be in memory twice. Do not write to `array` afterwards.
    """
    if array.ctypes.data % ALIGNMENT_BYTES or not (array.flags.c_contiguous and array.flags.writeable):
        copy = aligned_empty(array.shape, array.dtype)
        copy[...] = array
        array = copy
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def counts_by_class(counts: Mapping[int, int], named: int) -> list[int]:
    """Return the number of images of each class, for at least `named` classes; empty if some image has no label.

    Raises ArtifactError for more than MAX_CLASSES classes.
    """
    if not counts or NO_LABEL in counts:
        return []
    classes = max(named, max(counts) + 1)
    if classes > MAX_CLASSES:
        raise ArtifactError(
            f"The labels go up to {classes - 1}; at most {MAX_CLASSES} classes are supported.",
            "Number the classes from 0, or train without labels.",
        )
    return [counts.get(label, 0) for label in range(classes)]


def count_labels(labels: npt.NDArray[np.int32]) -> dict[int, int]:
    """Return the number of images of each label."""
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
