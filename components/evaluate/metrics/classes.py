"""Which classes samples reach, and how clearly, by what a classifier sees in them.

Coverage is the number of modes with at least some samples, as in Srivastava et al. 2017, "VEEGAN", section 5.1; here a class is
covered when its share of the samples is at least a tenth of its share of the real images. The class score is the Inception
Score (Salimans et al. 2016, "Improved Techniques for Training GANs", section 4) with another classifier: exp(E KL(p(y|x) ‖
p(y))), between 1 (one class, or every image unclear) and K (all classes alike, every image clear). It uses no real image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.inputs import Inputs
from components.evaluate.metrics.products import Floats

LEAST_SHARE = 0.1  # of a class's share of the real images
TOLERANCE = 1e-3

Classes = npt.NDArray[np.int64]


class ClassCoverage(NamedTuple):
    """`covered` of the `of` real classes; `imbalance`: share of samples that should be of another class (total variation)."""

    covered: int
    of: int
    imbalance: float


def class_shares(classes: Classes, count: int) -> Floats:
    """Return the share of each of `count` classes among the classes [N] of some images. Raises ValueError."""
    if not len(classes) or classes.min() < 0 or classes.max() >= count:
        raise ValueError(f"classes must be N ≥ 1 numbers from 0 to {count - 1}; got {len(classes)}")
    return np.bincount(classes, minlength=count) / len(classes)


def coverage(real: Floats, fake: Floats) -> ClassCoverage:
    """Return the coverage from the class shares [K] of real and of fake images."""
    there = real > 0.0
    covered = int((fake[there] >= LEAST_SHARE * real[there]).sum())
    return ClassCoverage(covered, int(there.sum()), float(0.5 * np.abs(real - fake).sum()))


def class_score(fake_probabilities: npt.ArrayLike) -> float:
    """Return the class score of fake images, 1 to K, from their class probabilities [M, K]. Raises ValueError."""
    array = np.asarray(fake_probabilities, np.float64)
    if array.ndim != 2 or not array.size or not (np.abs(array.sum(axis=1) - 1.0) < TOLERANCE).all() or array.min() < 0.0:
        raise ValueError(f"probabilities must be [N, K], not below 0, with rows that add up to 1; got {list(array.shape)}")
    return float(np.exp(_entropy(array.mean(axis=0)) - _entropy(array).mean()))


def measure_covered(inputs: Inputs) -> dict[str, float]:
    """Return `classes_covered`, where there is a classifier and the real images have labels."""
    found = _coverage(inputs)
    return {} if found is None else {"classes_covered": found.covered}


def measure_imbalance(inputs: Inputs) -> dict[str, float]:
    """Return `class_imbalance`, where there is a classifier and the real images have labels."""
    found = _coverage(inputs)
    return {} if found is None else {"class_imbalance": found.imbalance}


def measure_score(inputs: Inputs) -> dict[str, float]:
    """Return `class_score`, where there is a classifier and the real images have labels."""
    if inputs.real_class_shares is None or inputs.probabilities is None:
        return {}
    return {"class_score": class_score(inputs.probabilities)}


def _coverage(inputs: Inputs) -> ClassCoverage | None:
    real, seen = inputs.real_class_shares, inputs.probabilities
    if real is None or seen is None:
        return None
    return coverage(real, class_shares(seen.argmax(axis=1), len(real)))


def _entropy(probabilities: Floats) -> Floats:
    logarithms = np.log(np.where(probabilities > 0.0, probabilities, 1.0))
    entropy: Floats = -(probabilities * logarithms).sum(axis=-1)
    return entropy
