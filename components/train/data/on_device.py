"""Training images in the memory of TPU chips, as rows of bytes that the training program reshapes to images.

A chip pads the last two dimensions of an array to its tile size, so [N, 64, 64, 3] would take 42 times its bytes. Rows
[N, H·W·C] need almost no padding. They are reshaped to images after the gather.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from components.train.data.batches import RoundBatches, Shape
from components.train.data.resident import Resident
from components.train.data.source import Source
from components.train.noise import Rows


class Gathered(NamedTuple):
    """A whole split on each chip: pixels uint8 [N, H·W·C] and labels int32 [N]. A call sends the indices of its images."""

    pixels: tf.Tensor
    labels: tf.Tensor
    shape: Shape

    def arguments(self, taken: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        """Return what a call sends to the chips: indices int32 [R, n_critic, B]."""
        return taken

    def batch(self, arguments: tuple[tf.Tensor, ...], offset: tf.Tensor, rows: Rows) -> RoundBatches:
        """Return a replica's images of a round, gathered by index; those of the others are not read."""
        indices = rows.of(arguments[0][offset], axis=1)
        return RoundBatches(_images(tf.gather(self.pixels, indices), self.shape), tf.gather(self.labels, indices))


class Sent(NamedTuple):
    """Images that a call sends to the chips, all of them before its first round."""

    shape: Shape

    def arguments(self, taken: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        """Return what a call sends to the chips: pixels uint8 [R, n_critic, B, H·W·C] and labels int32 [R, n_critic, B]."""
        images, labels = taken
        return tf.reshape(images, [*images.shape[:3], _length(self.shape)]), labels

    def batch(self, arguments: tuple[tf.Tensor, ...], offset: tf.Tensor, rows: Rows) -> RoundBatches:
        """Return a replica's images of a round."""
        pixels, labels = (rows.of(each[offset], axis=1) for each in arguments)
        return RoundBatches(_images(pixels, self.shape), labels)


OnDevice = Gathered | Sent


def load_on_device(source: Source, strategy: tf.distribute.Strategy) -> OnDevice:
    """Return `source` for use on the chips: a resident one is copied to every chip, a streamed one sends images per call."""
    if not isinstance(source, Resident):
        return Sent(source.shape)
    images, labels = source.tensors
    with strategy.scope():
        pixels = tf.Variable(tf.reshape(images, [-1, _length(source.shape)]), trainable=False, name="pixels")
        return Gathered(pixels, tf.Variable(labels, trainable=False, name="labels"), source.shape)


def _length(shape: Shape) -> int:
    height, width, channels = shape
    return height * width * channels


def _images(rows: tf.Tensor, shape: Shape) -> tf.Tensor:
    return tf.reshape(rows, [*rows.shape[:-1], *shape])
