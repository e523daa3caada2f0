"""Reads images by index from the shards of a split."""

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

# A chunk is what is read at once, before the thread checks whether it should stop.
CHUNK_BYTES = 2**22  # of pixels
CHUNK_RECORDS = 4096
SCHEMA = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}


class LabelledImages(NamedTuple):
    """Images uint8 [N, H, W, C] and labels int32 [N]."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


class ImageReader:
    """Reads the images of any indices from the shards of a split."""

    def __init__(self, index: SplitIndex, shape: Shape) -> None:
        self.index, self.shape = index, shape
        self.image_bytes = int(np.prod(shape))
        self.chunk = max(1, min(CHUNK_RECORDS, CHUNK_BYTES // self.image_bytes))

    def read(self, indices: npt.NDArray[np.integer], stop: threading.Event | None = None) -> LabelledImages:
        """Return the images of these indices, in aligned memory. The result is incomplete if `stop` is set meanwhile.

        Each shard is read from start to end, whatever the order of `indices`. Raises ArtifactError if a record is
        damaged, is not an image, or is an image of another size.
        """
        images = aligned_empty((len(indices), self.image_bytes), np.uint8)
        labels = aligned_empty((len(indices),), np.int32)
        ascending = np.argsort(indices, kind="stable")
        for start in range(0, len(indices), self.chunk):
            if stop is not None and stop.is_set():
                break
            rows = ascending[start : start + self.chunk]
            images[rows], labels[rows] = self._parse(self.index.read(indices[rows]))
        return LabelledImages(images.reshape(len(indices), *self.shape), labels)

    def counts_by_label(self) -> Counter[int]:
        """Return the number of images of each label; reads every record."""
        counts: Counter[int] = Counter()
        for start in range(0, len(self.index), self.chunk):
            indices = np.arange(start, min(start + self.chunk, len(self.index)))
            counts.update(count_labels(self.read(indices).labels))
        return counts

    def _parse(self, records: list[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        # TensorFlow parses 700,000 records a second, components.dataset.records.decode_example 100,000.
        with tf.device("CPU:0"):
            try:
                parsed = tf.io.parse_example(tf.constant(records), SCHEMA)
            except tf.errors.InvalidArgumentError:
                raise ArtifactError("A record does not hold an image with a label.", "Run ingest again.") from None
            lengths = tf.strings.length(parsed["image"]).numpy()
            if np.any(wrong := lengths != self.image_bytes):
                raise ArtifactError(
                    f"A record holds {lengths[wrong][0]} bytes instead of {'×'.join(map(str, self.shape))}.",
                    "Run ingest again.",
                )
            labels = parsed["label"].numpy()
            if np.any(wrong := (labels < NO_LABEL) | (labels > np.iinfo(np.int32).max)):
                raise ArtifactError(f"A record has the invalid label {labels[wrong][0]}.", "Run ingest again.")
            return tf.io.decode_raw(parsed["image"], tf.uint8).numpy(), labels
