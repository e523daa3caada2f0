"""A vector for each label."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class LabelRows(keras.layers.Layer):  # type: ignore[misc]
    """One vector per label: labels int32 [B] to [B, D].

    It multiplies with the one-hot labels instead of a lookup, so its gradient is dense and is summed over replicas like others.
    """

    def __init__(self, classes: int, length: int, initializer: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.classes, self.length, self.initializer = classes, length, initializer

    def build(self, _: tuple[int | None, ...]) -> None:
        """Create the rows."""
        self.rows = self.add_weight(shape=(self.classes, self.length), initializer=self.initializer, name="rows")

    def call(self, labels: tf.Tensor) -> tf.Tensor:
        """Return the row of each label."""
        return tf.matmul(tf.one_hot(labels, self.classes, dtype=self.compute_dtype), tf.cast(self.rows, self.compute_dtype))

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return [B, D]."""
        return (input_shape[0], self.length)
