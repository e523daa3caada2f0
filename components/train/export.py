"""The generator as a SavedModel that plain TensorFlow can use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.train import step
from components.train.config import TrainConfig
from components.train.networks import ImageShape, make_generator


class Generator(tf.Module):  # type: ignore[misc]
    """The moving average of the generator, in float32, on one device; two signatures that return uint8 images."""

    def __init__(self, shape: ImageShape, config: TrainConfig) -> None:
        super().__init__()
        self.network = make_generator(shape, config)
        self.latents = config.latents
        self.generate_from_latents = tf.function(
            self._from_latents, input_signature=[tf.TensorSpec([None, config.latents], tf.float32, "latents")]
        )
        self.generate = tf.function(
            self._from_seed,
            input_signature=[tf.TensorSpec([], tf.int64, "seed"), tf.TensorSpec([], tf.int32, "count")],
        )

    def take_weights(self, state: step.State) -> None:
        """Copy the moving average out of the training state, whatever its devices."""
        for mine, average in zip(self.network.variables, state.ema_generator.variables, strict=True):
            mine.assign(average.numpy())

    def images(self, latents: tf.Tensor) -> npt.NDArray[np.uint8]:
        """Return the images [n, H, W, C] of latents [n, L]."""
        return self.generate_from_latents(latents)["images"].numpy()  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        """Write the SavedModel."""
        signatures = {"generate": self.generate, "generate_from_latents": self.generate_from_latents}
        tf.saved_model.save(self, str(folder), signatures=signatures)

    def _from_latents(self, latents: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"images": step.to_uint8(self.network(latents, training=False))}

    def _from_seed(self, seed: tf.Tensor, count: tf.Tensor) -> dict[str, tf.Tensor]:
        pair = tf.stack([seed, tf.zeros([], tf.int64)])
        latents = tf.random.stateless_normal([count, self.latents], pair, alg="philox")
        return self._from_latents(latents)
