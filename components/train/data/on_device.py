"""Training images in the memory of a TPU's chips: rows of bytes, turned into batches by the program that trains on them.

A chip pads the two last dimensions of an array to its tiles, so [N, 64, 64, 3] would take 42 times its bytes. Rows
[N, H·W·C] are padded hardly at all; they become images after the gather.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from components.train.data.batches import Batch, Shape
from components.train.data.resident import Resident
from components.train.data.source import Source


class Gathered(NamedTuple):
    """A whole split on each chip: pixels uint8 [N, H·W·C] and labels int32 [N]; a call takes the images' numbers along."""

    pixels: tf.Tensor
    labels: tf.Tensor
    shape: Shape

    def arguments(self, taken: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        """Return what goes to the chips for a call: numbers int32 [R, n_critic, B]."""
        return taken

    def batch(self, arguments: tuple[tf.Tensor, ...], offset: tf.Tensor) -> Batch:
        """Gather the images of a round."""
        numbers = arguments[0][offset]
        return Batch(_images(tf.gather(self.pixels, numbers), self.shape), tf.gather(self.labels, numbers))


class Sent(NamedTuple):
    """Images that a call takes along, all of them before its first round."""

    shape: Shape

    def arguments(self, taken: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        """Return what goes to the chips for a call: pixels uint8 [R, n_critic, B, H·W·C] and labels int32 [R, n_critic, B]."""
        images, labels = taken
        return tf.reshape(images, [*images.shape[:3], _length(self.shape)]), labels

    def batch(self, arguments: tuple[tf.Tensor, ...], offset: tf.Tensor) -> Batch:
        """Slice out the images of a round."""
        pixels, labels = arguments
        return Batch(_images(pixels[offset], self.shape), labels[offset])


OnDevice = Gathered | Sent


def placed(source: Source, strategy: tf.distribute.Strategy) -> OnDevice:
    """Put a resident source into the memory of every chip; of a streamed one, each call's images go there."""
    if not isinstance(source, Resident):
        return Sent(source.shape)
    images, labels = source.everything
    with strategy.scope():
        pixels = tf.Variable(tf.reshape(images, [-1, _length(source.shape)]), trainable=False, name="pixels")
        return Gathered(pixels, tf.Variable(labels, trainable=False, name="labels"), source.shape)


def _length(shape: Shape) -> int:
    height, width, channels = shape
    return height * width * channels


def _images(rows: tf.Tensor, shape: Shape) -> tf.Tensor:
    return tf.reshape(rows, [*rows.shape[:-1], *shape])
