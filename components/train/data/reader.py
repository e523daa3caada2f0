"""Reads images by number from the shards of a split."""

from __future__ import annotations

import threading
from collections import Counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.common.errors import ArtifactError
from components.dataset.records import NO_LABEL, SplitIndex
from components.train.data.batches import Shape, aligned_empty, count_labels

CHUNK_BYTES = 2**22  # of pixels parsed at once,
CHUNK_RECORDS = 4096  # if there are not more records than that: what a thread does before it looks whether it should end
SCHEMA = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}


class Examples(NamedTuple):
    """Images uint8 [N, H, W, C] and labels int32 [N]."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


class ImageReader:
    """Reads the images of any numbers from the shards of a split."""

    def __init__(self, index: SplitIndex, shape: Shape) -> None:
        self.index, self.shape = index, shape
        self.image_bytes = int(np.prod(shape))
        self.chunk = max(1, min(CHUNK_RECORDS, CHUNK_BYTES // self.image_bytes))

    def read(self, numbers: npt.NDArray[np.integer], stop: threading.Event | None = None) -> Examples:
        """Return the images of these numbers, in aligned memory; incomplete when `stop` was set meanwhile.

        Each shard is read from its begin to its end, whatever the order of `numbers`. Raises ArtifactError when a record is
        damaged, no image, or an image of another size.
        """
        images = aligned_empty((len(numbers), self.image_bytes), np.uint8)
        labels = aligned_empty((len(numbers),), np.int32)
        ascending = np.argsort(numbers, kind="stable")
        for start in range(0, len(numbers), self.chunk):
            if stop is not None and stop.is_set():
                break
            places = ascending[start : start + self.chunk]
            images[places], labels[places] = self._parsed(self.index.read(numbers[places]))
        return Examples(images.reshape(len(numbers), *self.shape), labels)

    def counts_by_label(self) -> Counter[int]:
        """Return the number of images by label; reads every record."""
        counts: Counter[int] = Counter()
        for start in range(0, len(self.index), self.chunk):
            numbers = np.arange(start, min(start + self.chunk, len(self.index)))
            counts.update(count_labels(self.read(numbers).labels))
        return counts

    def _parsed(self, records: list[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        # TensorFlow's parser does 700,000 records a second, components.dataset.records.decode_example 100,000.
        with tf.device("CPU:0"):
            try:
                parsed = tf.io.parse_example(tf.constant(records), SCHEMA)
            except tf.errors.InvalidArgumentError:
                raise ArtifactError("A record holds no image with a label.", "Run ingest again.") from None
            lengths = tf.strings.length(parsed["image"]).numpy()
            if np.any(wrong := lengths != self.image_bytes):
                raise ArtifactError(
                    f"A record holds {lengths[wrong][0]} bytes, {'×'.join(map(str, self.shape))} are expected.",
                    "Run ingest again.",
                )
            labels = parsed["label"].numpy()
            if np.any(wrong := (labels < NO_LABEL) | (labels > np.iinfo(np.int32).max)):
                raise ArtifactError(f"A record has the label {labels[wrong][0]}, which is no class.", "Run ingest again.")
            return tf.io.decode_raw(parsed["image"], tf.uint8).numpy(), labels
