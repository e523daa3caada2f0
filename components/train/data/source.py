"""The training images of a dataset, resident in memory or streamed from its TFRecords; the batches are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError
from components.dataset.records import SplitIndex
from components.train.data.batches import RoundBatches, Shape
from components.train.data.reader import ImageReader
from components.train.data.resident import Resident
from components.train.data.streamed import Streamed

RESIDENT_LIMIT_BYTES = 2**30  # of pixels; with "auto", larger datasets are streamed
CALL_BUDGET_BYTES = 2**28  # for the images of one host call


class Source(Protocol):
    """The training images, in an order that depends only on seed and round, not on earlier calls.

    `shape` is (height, width, channels), `count` the number of images, `bytes_per_round` the size of what `take` returns
    for one round.
    """

    shape: Shape
    count: int
    bytes_per_round: int

    @property
    def label_counts(self) -> list[int]:
        """Number of images of each class; empty if some image has no label. Raises ArtifactError for too many classes."""

    def first(self, count: int) -> npt.NDArray[np.uint8]:
        """Return the first `count` images of the dataset, or all if there are fewer."""

    def take(self, first_round: int, rounds: int) -> tuple[tf.Tensor, ...]:
        """Return what a host call needs for `rounds` rounds from `first_round` on; rounds are the first axis of each tensor."""

    def batch(self, taken: tuple[tf.Tensor, ...], offset: tf.Tensor) -> RoundBatches:
        """Return the batches of one round; `taken` is from `take`, `offset` counts from its first round. Runs in the graph."""

    def close(self) -> None:
        """Stop reading; `take` cannot be called any more."""


def open_source(
    dataset: Path,
    *,
    seed: int,
    n_critic: int,
    batch_size: int,
    mode: Literal["auto", "resident", "stream"] = "auto",
    resident_limit_bytes: int = RESIDENT_LIMIT_BYTES,
) -> Source:
    """Return the training images of a dataset artifact; "auto" loads up to `resident_limit_bytes` of pixels into memory.

    Raises ArtifactError if the dataset is damaged or has no training images.
    """
    manifest = read_manifest(dataset, "dataset", verify=False)
    size, channels = int(manifest.details["image_size"]), int(manifest.details["channels"])
    reader = ImageReader(SplitIndex(dataset, "train"), (size, size, channels))
    if not len(reader.index):
        raise ArtifactError(f"{dataset} has no training images.", "Run ingest on a source with more images.")
    small = len(reader.index) * reader.image_bytes <= resident_limit_bytes
    if mode == "resident" or (mode == "auto" and small):
        examples = reader.read(np.arange(len(reader.index)))
        classes = len(manifest.details.get("label_names", []))
        return Resident(*examples, seed=seed, n_critic=n_critic, batch_size=batch_size, classes=classes)
    return Streamed(reader, manifest, seed=seed, n_critic=n_critic, batch_size=batch_size)


def rounds_that_fit(bytes_per_round: int, budget: int = CALL_BUDGET_BYTES) -> int:
    """Return the number of rounds for which `Source.take` returns at most `budget` bytes; at least 1.

    A Streamed source holds two calls in memory (one computed, one read ahead), that is twice `budget`.
    """
    return max(1, budget // bytes_per_round)
