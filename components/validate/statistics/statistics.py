"""Statistics of a split, exact because they are computed from integer counts of grey levels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from components.common.section import Frozen
from components.dataset.records import NO_LABEL
from components.validate.statistics.tally import LEVELS, Tally


class SplitStatistics(Frozen):
    """Statistics of one split. Minimum to deviation are in grey levels, 0 to 255; mean and deviation have one value a channel.

    `deviation` is the standard deviation of all pixels (divided by n, not n - 1).
    """

    count: int
    shape: tuple[int, int, int]
    minimum: int
    maximum: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    label_histogram: dict[str, int]


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
    )


def label_histogram(labels: Mapping[int, int], label_names: list[str]) -> dict[str, int]:
    """Return the number of images of each label, by name (or by number, for a label without a name), in order of the labels."""

    def name(label: int) -> str:
        if label == NO_LABEL:
            return "unlabelled"
        return label_names[label] if label < len(label_names) else str(label)

    return {name(label): labels[label] for label in sorted(labels)}
