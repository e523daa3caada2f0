"""Statistics of a split, exact because they are computed from integer counts of grey levels."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

from components.dataset.records import NO_LABEL
from components.validate.statistics.tally import LEVELS, SIZE_BUCKETS_PER_OCTAVE, Tally


class SizeStatistics(BaseModel):
    """Heights or widths of the source images in pixels, of the images for which they are known."""

    model_config = ConfigDict(frozen=True)
    known: int
    minimum: int
    maximum: int
    mean: float
    deviation: float


class SplitStatistics(BaseModel):
    """Statistics of one split. Minimum to deviation are in grey levels, 0 to 255; mean and deviation have one value a channel.

    `deviation` is the standard deviation of all pixels (divided by n, not n - 1). `brightness` and `contrast` count images by
    the mean of their pixels (4 grey levels a bucket) and by the standard deviation of their pixels (2 grey levels a bucket);
    `aspect_ratios` counts them by width / height, to the nearest eighth of an octave.
    """

    model_config = ConfigDict(frozen=True)
    count: int
    shape: tuple[int, int, int]
    minimum: int
    maximum: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    label_histogram: dict[str, int]
    brightness: tuple[int, ...]
    contrast: tuple[int, ...]
    blank: int
    source_height: SizeStatistics | None
    source_width: SizeStatistics | None
    aspect_ratios: dict[str, int]


def split_statistics(tally: Tally, image_size: int, label_names: list[str]) -> SplitStatistics:
    """Return the statistics of a split from its tally of at least one image."""
    values, pixels = np.arange(LEVELS), tally.levels.sum(axis=1)
    mean = tally.levels @ values / pixels
    variance = (tally.levels * (values - mean[:, None]) ** 2).sum(axis=1) / pixels
    present = np.flatnonzero(tally.levels.sum(axis=0))
    return SplitStatistics(
        count=tally.count,
        shape=(image_size, image_size, tally.channels),
        minimum=int(present[0]),
        maximum=int(present[-1]),
        mean=tuple(mean.tolist()),
        deviation=tuple(np.sqrt(variance).tolist()),
        label_histogram=label_histogram(tally.labels, label_names),
        brightness=tuple(tally.brightness.tolist()),
        contrast=tuple(tally.contrast.tolist()),
        blank=tally.blank,
        source_height=_size_statistics(tally, "height"),
        source_width=_size_statistics(tally, "width"),
        aspect_ratios={f"{2 ** (key / SIZE_BUCKETS_PER_OCTAVE):.3g}": tally.aspects[key] for key in sorted(tally.aspects)},
    )


def label_histogram(labels: Mapping[int, int], label_names: list[str]) -> dict[str, int]:
    """Return the number of images of each label, by name (or by number, for a label without a name), in order of the labels."""

    def name(label: int) -> str:
        if label == NO_LABEL:
            return "unlabelled"
        return label_names[label] if label < len(label_names) else str(label)

    return {name(label): labels[label] for label in sorted(labels)}


def _size_statistics(tally: Tally, side: str) -> SizeStatistics | None:
    if side not in tally.extremes:
        return None
    known = sum(tally.heights.values())
    low, high, sums, squares = tally.extremes[side]
    deviation = math.sqrt(known * squares - sums**2) / known
    return SizeStatistics(known=known, minimum=low, maximum=high, mean=sums / known, deviation=deviation)
