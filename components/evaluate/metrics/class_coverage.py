"""Which classes samples reach, by the classes a classifier sees in them.

The number of modes with at least some samples, as in Srivastava et al. 2017, "VEEGAN", section 5.1; here a class is covered
when its share of the samples is at least a tenth of its share of the real images. How even the classes are is the total
variation distance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.products import Floats

LEAST_SHARE = 0.1  # of a class's share of the real images

Classes = npt.NDArray[np.int64]


class ClassCoverage(NamedTuple):
    """`covered` `of` the real classes; `imbalance` is the share of samples that should be of another class, 0 is best."""

    covered: int
    of: int
    imbalance: float


def features_to_statistics(classes: Classes, count: int) -> Floats:
    """Return the share of each of `count` classes among the classes [N] of images of one kind. Raises ValueError."""
    if not len(classes) or classes.min() < 0 or classes.max() >= count:
        raise ValueError(f"classes must be N ≥ 1 numbers from 0 to {count - 1}; got {len(classes)}")
    return np.bincount(classes, minlength=count) / len(classes)


def statistics_to_metric(real: Floats, fake: Floats) -> ClassCoverage:
    """Return the coverage from the shares [K] of real and of fake images."""
    there = real > 0.0
    covered = int((fake[there] >= LEAST_SHARE * real[there]).sum())
    return ClassCoverage(covered, int(there.sum()), float(0.5 * np.abs(real - fake).sum()))


def compute(real_classes: Classes, fake_classes: Classes) -> ClassCoverage:
    """Return the coverage from the labels of real images [N] and the classes seen in fake ones [M]. Raises ValueError."""
    count = 1 + int(max(real_classes.max(initial=0), fake_classes.max(initial=0)))
    return statistics_to_metric(features_to_statistics(real_classes, count), features_to_statistics(fake_classes, count))
