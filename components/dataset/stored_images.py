"""A split of a dataset as an array on the disk: slices are read when they are used, and nothing is cached."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.artifacts import read_manifest
from components.dataset.records import SplitIndex, decode_example, parse_example

Images = npt.NDArray[np.uint8]


class StoredImages:
    """The images of a split in shard order, uint8 [N, H, W, C], to be sliced or indexed; takes 16 bytes of memory an image.

    Its creation reads the shards once, and checks their digests; `each` gets the data of each record meanwhile.
    """

    def __init__(self, dataset: Path, split: str, each: Callable[[bytes], object] = len) -> None:
        details = read_manifest(dataset, "dataset", verify=False).details
        self._index = SplitIndex(dataset, split, each)
        size, channels = int(details["image_size"]), int(details["channels"])
        self.shape = (len(self._index), size, size, channels)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, wanted: slice | npt.NDArray[np.integer]) -> Images:
        """Return the images of a slice or of an array of numbers: uint8 [*its shape, H, W, C]. Raises ArtifactError."""
        numbers = np.arange(len(self))[wanted] if isinstance(wanted, slice) else np.asarray(wanted)
        ascending, inverse = np.unique(numbers, return_inverse=True)
        images = np.empty((len(ascending), *self.shape[1:]), np.uint8)
        if len(ascending):
            for at, serialized in enumerate(self._index.read(ascending)):
                images[at] = decode_example(serialized, self.shape[1], self.shape[3]).image
        return images[inverse.reshape(numbers.shape)]


class StoredSet(NamedTuple):
    """A split whose images stay on the disk, and its labels int64 [N]."""

    images: StoredImages
    labels: npt.NDArray[np.int64]


def open_split(dataset: Path, split: str) -> StoredSet:
    """Open one split of a dataset artifact, in the order of `read_split`. Only the labels are loaded. Raises ArtifactError."""
    labels = array("q")
    images = StoredImages(dataset, split, lambda data: labels.extend(parse_example(data)["label"].int64_list.value))
    return StoredSet(images, np.array(labels, np.int64))
