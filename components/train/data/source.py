"""The training images of a dataset: resident in memory, or streamed from its TFRecords; the same batches either way."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError
from components.dataset.records import SplitIndex
from components.train.data.batches import Batch, Shape
from components.train.data.reader import ImageReader
from components.train.data.resident import Resident
from components.train.data.streamed import Streamed

RESIDENT_LIMIT_BYTES = 2**30  # of pixels; "auto" streams what is larger
CALL_BUDGET_BYTES = 2**28  # of the images that one host call takes along


class Source(Protocol):
    """The training images in an order that is a function of (seed, round), whatever was asked for before.

    `shape` is height, width and channels, `count` the number of images, `label_counts` theirs by class, empty where an image
    has no label, `bytes_per_round` what `take` returns for a round.
    """

    shape: Shape
    count: int
    bytes_per_round: int

    @property
    def label_counts(self) -> list[int]:
        """Images by class. Raises ArtifactError when the labels cannot be classes."""

    def first(self, count: int) -> npt.NDArray[np.uint8]:
        """Return the first `count` images of the dataset (all, where there are fewer), to look at."""

    def take(self, first_round: int, rounds: int) -> tuple[tf.Tensor, ...]:
        """Return what a host call needs for `rounds` rounds from `first_round` on; each tensor has the rounds first."""

    def batch(self, taken: tuple[tf.Tensor, ...], offset: tf.Tensor) -> Batch:
        """Return the batches of round `offset` of what was taken; runs in the graph."""

    def close(self) -> None:
        """End what runs beside the training; nothing can be taken any more."""


def open_source(
    dataset: Path,
    *,
    seed: int,
    n_critic: int,
    batch_size: int,
    mode: Literal["auto", "resident", "stream"] = "auto",
    resident_limit_bytes: int = RESIDENT_LIMIT_BYTES,
) -> Source:
    """Return the training images of a dataset artifact; "auto" keeps up to `resident_limit_bytes` of pixels in memory.

    Raises ArtifactError when the dataset is damaged or has no image to train on.
    """
    manifest = read_manifest(dataset, "dataset", verify=False)
    size, channels = int(manifest.details["image_size"]), int(manifest.details["channels"])
    reader = ImageReader(SplitIndex(dataset, "train"), (size, size, channels))
    if not len(reader.index):
        raise ArtifactError(f"{dataset} has no training images.", "Run ingest on a source that has some.")
    small = len(reader.index) * reader.image_bytes <= resident_limit_bytes
    if mode == "resident" or (mode == "auto" and small):
        examples = reader.read(np.arange(len(reader.index)))
        classes = len(manifest.details.get("label_names", []))
        return Resident(*examples, seed=seed, n_critic=n_critic, batch_size=batch_size, classes=classes)
    return Streamed(reader, manifest, seed=seed, n_critic=n_critic, batch_size=batch_size)


def rounds_that_fit(bytes_per_round: int, budget: int = CALL_BUDGET_BYTES) -> int:
    """Return how many rounds a host call may have so that `Source.take` returns at most `budget` bytes; at least 1.

    A Streamed source holds two calls, the one that is computed and the one that is read: twice `budget`.
    """
    return max(1, budget // bytes_per_round)
