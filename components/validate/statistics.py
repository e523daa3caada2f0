"""Image statistics of a split, exact: they come from counts of grey levels, not from sums of floats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from components.records import NO_LABEL

IMAGES_PER_CHUNK = 4096  # np.bincount widens bytes to 8-byte integers: a chunk at a time bounds the memory
LEVELS = 256


class SplitStatistics(BaseModel):
    """What one split holds; minimum to deviation are grey levels, 0 to 255, mean and deviation one a channel."""

    model_config = ConfigDict(frozen=True)
    count: int
    shape: tuple[int, int, int]
    minimum: int
    maximum: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    label_histogram: dict[str, int]


def split_statistics(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], label_names: list[str]) -> SplitStatistics:
    """Return the statistics of images uint8 [N, H, W, C], N ≥ 1, and labels int64 [N].

    The deviation is that of the whole population of pixels (divided by their number, not by one less).
    """
    counts = level_counts(images)
    levels = np.arange(LEVELS)
    pixels = counts.sum(axis=1)
    mean = counts @ levels / pixels
    variance = (counts * (levels - mean[:, None]) ** 2).sum(axis=1) / pixels
    present = np.flatnonzero(counts.sum(axis=0))
    height, width, channels = images.shape[1:]
    return SplitStatistics(
        count=len(images),
        shape=(height, width, channels),
        minimum=int(present[0]),
        maximum=int(present[-1]),
        mean=tuple(float(value) for value in mean),
        deviation=tuple(float(value) for value in np.sqrt(variance)),
        label_histogram=label_histogram(labels, label_names),
    )


def level_counts(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return how many pixels of each channel have each grey level: int64 [C, 256]."""
    counts = np.zeros((images.shape[-1], LEVELS), np.int64)
    for start in range(0, len(images), IMAGES_PER_CHUNK):
        chunk = images[start : start + IMAGES_PER_CHUNK]
        for channel, total in enumerate(counts):
            total += np.bincount(chunk[..., channel].ravel(), minlength=LEVELS)
    return counts


def label_histogram(labels: npt.NDArray[np.int64], label_names: list[str]) -> dict[str, int]:
    """Return the number of images a label, by name (by number where labels have no names), in the order of labels."""
    values, counts = np.unique(labels, return_counts=True)
    return {_name(int(value), label_names): int(count) for value, count in zip(values, counts, strict=True)}


def _name(label: int, label_names: list[str]) -> str:
    if label == NO_LABEL:
        return "unlabelled"
    return label_names[label] if label < len(label_names) else str(label)
