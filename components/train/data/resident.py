"""A whole split in memory: a host call takes the indices of its images, and the graph gathers the images."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.train.data.batches import Order, RoundBatches, count_labels, counts_by_class, shared_tensor


class Resident:
    """A whole split in memory; a Source."""

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.integer],
        *,
        seed: int,
        n_critic: int,
        batch_size: int,
        classes: int = 0,
    ) -> None:
        """Keep images [N, H, W, C] and labels [N]. Aligned arrays are not copied: do not write to them afterwards.

        `classes` is the number of classes that have a name; some of them may have no image.
        """
        count, height, width, channels = images.shape
        self.count, self.shape = count, (height, width, channels)
        self.bytes_per_round = 4 * n_critic * batch_size
        self._images, self._labels = shared_tensor(images), shared_tensor(labels.astype(np.int32, copy=False))
        self._order, self._classes = Order(seed, count, n_critic, batch_size), classes

    @cached_property
    def label_counts(self) -> list[int]:
        """Number of images of each class."""
        return counts_by_class(count_labels(self._labels.numpy()), self._classes)

    @property
    def tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """All images uint8 [N, H, W, C] and labels int32 [N]; a TPU copies them to its own memory."""
        return self._images, self._labels

    def first(self, count: int) -> npt.NDArray[np.uint8]:
        """Return the first images."""
        return np.array(self._images[:count])

    def take(self, first_round: int, rounds: int) -> tuple[tf.Tensor, ...]:
        """Return the indices of the images, int32 [rounds, n_critic, B]."""
        return (tf.constant(self._order.indices(first_round, rounds)),)

    def batch(self, taken: tuple[tf.Tensor, ...], offset: tf.Tensor) -> RoundBatches:
        """Return the images of a round, gathered by index."""
        indices = tf.ensure_shape(taken[0][offset], [self._order.n_critic, self._order.batch_size])
        with tf.device(self._images.device):  # on another device, each call would first copy the whole dataset there
            return RoundBatches(tf.gather(self._images, indices), tf.gather(self._labels, indices))

    def close(self) -> None:
        """Do nothing: there is no thread to stop."""
