"""The generator as a SavedModel that plain TensorFlow can use."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.generator.generator import seed_of_batch
from components.train import step, threefry
from components.train.config import TrainConfig
from components.train.networks import ImageShape, make_generator


class Generator(tf.Module):  # type: ignore[misc]
    """The moving average of the generator, in float32, on one device; its signatures return uint8 images.

    `label_counts` are the numbers of training images by class if the networks see labels. `generate` draws labels in the same
    proportions, `generate_labels` takes the labels as an argument.
    """

    def __init__(self, shape: ImageShape, config: TrainConfig, label_counts: Sequence[int] = ()) -> None:
        super().__init__()
        self.network = make_generator(shape, config)
        self.latents = config.latents
        self.classes = shape.classes
        self.shares_up_to = np.cumsum(label_counts) / max(1, sum(label_counts))  # by label
        # A variable, so that it is part of the SavedModel, whose readers check that a label exists.
        self.label_counts = tf.Variable(list(label_counts), trainable=False, dtype=tf.int64)
        latents = tf.TensorSpec([None, config.latents], tf.float32, "latents")
        labels = tf.TensorSpec([None], tf.int32, "labels")
        seed, count = tf.TensorSpec([], tf.int64, "seed"), tf.TensorSpec([], tf.int32, "count")
        graph = functools.partial(tf.function, autograph=False)  # without Python's loops and conditions, it traces faster
        self.generate = graph(self._from_seed, input_signature=[seed, count])
        self.functions = {"generate": self.generate}
        if shape.classes:
            self.functions["generate_from_latents"] = graph(self._from_latents, input_signature=[latents, labels])
            self.functions["generate_labels"] = graph(self._from_labels, input_signature=[seed, labels])
        else:
            self.functions["generate_from_latents"] = graph(self._from_latents, input_signature=[latents])

    def set_weights(self, averages: Sequence[npt.NDArray[Any]]) -> None:
        """Set the weights, in the order of the network's variables."""
        for mine, average in zip(self.network.variables, averages, strict=True):
            mine.assign(average)

    def images(self, latents: tf.Tensor, labels: tf.Tensor) -> npt.NDArray[np.uint8]:
        """Return the images [n, H, W, C] of latents [n, L]; labels [n] are used by conditional generators only."""
        arguments = (latents, labels) if self.classes else (latents,)
        return self.functions["generate_from_latents"](*arguments)["images"].numpy()  # type: ignore[no-any-return]

    def draw(self, seed: int, count: int, batch_size: int = 100) -> npt.NDArray[np.uint8]:
        """Return `count` images; equal seeds give equal images."""
        seeds = [seed_of_batch(seed, index) for index in range(-(-count // batch_size))]
        batches = [self.generate(tf.constant(each, tf.int64), tf.constant(batch_size))["images"].numpy() for each in seeds]
        drawn: npt.NDArray[np.uint8] = np.concatenate(batches)[:count]
        return drawn

    def save(self, folder: Path) -> None:
        """Write the SavedModel."""
        tf.saved_model.save(self, str(folder), signatures=self.functions)

    def _from_latents(self, latents: tf.Tensor, labels: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        inputs = latents if labels is None else [latents, labels]
        return {"images": step.to_uint8(self.network(inputs, training=False))}

    def _from_labels(self, seed: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._from_latents(self._noise(seed, tf.shape(labels)[0])[0], labels)

    def _from_seed(self, seed: tf.Tensor, count: tf.Tensor) -> dict[str, tf.Tensor]:
        latents, share = self._noise(seed, count)
        if not self.classes:
            return self._from_latents(latents)
        labels = tf.searchsorted(tf.constant(self.shares_up_to, tf.float32), share, side="right")
        return self._from_latents(latents, labels)

    def _noise(self, seed: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return latents [count, L], and for each a number that is uniform in [0, 1)."""
        key = tf.unstack(tf.bitcast(seed, tf.uint32))
        drawn = threefry.words((key[0], key[1]), 1, 0, count, self.latents + 1)[0]
        return threefry.normal(drawn[:, : self.latents]), threefry.uniform(drawn[:, self.latents])
