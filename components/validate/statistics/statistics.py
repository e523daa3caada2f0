"""Image statistics of a split, exact: they come from counts of grey levels, not from sums of floats."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from components.dataset.records import NO_LABEL
from components.validate.statistics.tally import LEVELS, Tally


class SizeStatistics(BaseModel):
    """Heights or widths of the source's images in pixels, where known."""

    model_config = ConfigDict(frozen=True)
    known: int
    minimum: int
    maximum: int
    mean: float
    deviation: float


class SplitStatistics(BaseModel):
    """What one split holds; minimum to deviation are grey levels, 0 to 255, mean and deviation one a channel.

    `brightness` and `contrast` are numbers of images by their mean (4 grey levels a bucket) and by their deviation from it
    (2 a bucket); `aspect_ratios` by width / height, to the nearest eighth of an octave.
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
    """Return the statistics that follow from the tally of at least one image.

    The deviation is that of the whole population of pixels (divided by their number, not by one less).
    """
    mean, deviation = mean_and_deviation(tally)
    present = np.flatnonzero(tally.levels.sum(axis=0))
    return SplitStatistics(
        count=tally.count,
        shape=(image_size, image_size, tally.channels),
        minimum=int(present[0]),
        maximum=int(present[-1]),
        mean=tuple(mean.tolist()),
        deviation=tuple(deviation.tolist()),
        label_histogram=label_histogram(tally.labels, label_names),
        brightness=tuple(tally.brightness.tolist()),
        contrast=tuple(tally.contrast.tolist()),
        blank=tally.blank,
        source_height=_sizes(tally, "height"),
        source_width=_sizes(tally, "width"),
        aspect_ratios={f"{2 ** (key / 8):.3g}": tally.aspects[key] for key in sorted(tally.aspects)},
    )


def mean_and_deviation(tally: Tally) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and deviation of the grey levels of each channel: float64 [C] each."""
    levels = np.arange(LEVELS)
    pixels = tally.levels.sum(axis=1)
    mean = tally.levels @ levels / pixels
    variance = (tally.levels * (levels - mean[:, None]) ** 2).sum(axis=1) / pixels
    return mean, np.sqrt(variance)


def label_histogram(labels: Mapping[int, int], label_names: list[str]) -> dict[str, int]:
    """Return the number of images a label, by name (by number where labels have no names), in the order of labels."""
    return {_name(label, label_names): labels[label] for label in sorted(labels)}


def _name(label: int, label_names: list[str]) -> str:
    if label == NO_LABEL:
        return "unlabelled"
    return label_names[label] if label < len(label_names) else str(label)


def _sizes(tally: Tally, name: str) -> SizeStatistics | None:
    if name not in tally.extremes:
        return None
    known = sum(tally.heights.values())
    low, high, sums, squares = tally.extremes[name]
    deviation = math.sqrt(known * squares - sums**2) / known
    return SizeStatistics(known=known, minimum=low, maximum=high, mean=sums / known, deviation=deviation)
