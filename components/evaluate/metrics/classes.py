"""Which classes the samples cover, and how clearly, according to a classifier.

Coverage is the number of modes with at least some samples, as in Srivastava et al. 2017, "VEEGAN", section 5.1; here a class is
covered if its share of the samples is at least a tenth of its share of the real images. The class score is the Inception
Score (Salimans et al. 2016, "Improved Techniques for Training GANs", section 4) with another classifier: exp(E KL(p(y|x) ‖
p(y))), between 1 (one class, or no clear image) and K (equal shares, all images clear). It does not use real images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.checks import Floats
from components.evaluate.metrics.inputs import Inputs

LEAST_SHARE = 0.1  # as a fraction of the class's share of the real images
TOLERANCE = 1e-3

Classes = npt.NDArray[np.int64]


class ClassCoverage(NamedTuple):
    """`covered` classes of `of` real ones; `imbalance`: share of samples that should have another class (total variation)."""

    covered: int
    of: int
    imbalance: float


def class_shares(classes: Classes, count: int) -> Floats:
    """Return the share of each of `count` classes among the classes [N] of images. Raises ValueError."""
    if not len(classes) or classes.min() < 0 or classes.max() >= count:
        raise ValueError(f"classes must be N ≥ 1 numbers from 0 to {count - 1}; got {len(classes)}")
    return np.bincount(classes, minlength=count) / len(classes)


def coverage(real: Floats, fake: Floats) -> ClassCoverage:
    """Return the coverage from the class shares [K] of real and of fake images."""
    present = real > 0.0
    covered = int((fake[present] >= LEAST_SHARE * real[present]).sum())
    return ClassCoverage(covered, int(present.sum()), float(0.5 * np.abs(real - fake).sum()))


def class_score(fake_probabilities: npt.ArrayLike) -> float:
    """Return the class score of fake images, 1 to K, from their class probabilities [M, K]. Raises ValueError."""
    array = np.asarray(fake_probabilities, np.float64)
    if array.ndim != 2 or not array.size or not (np.abs(array.sum(axis=1) - 1.0) < TOLERANCE).all() or array.min() < 0.0:
        raise ValueError(f"probabilities must be [N, K] and at least 0, and rows must add up to 1; got {list(array.shape)}")
    return float(np.exp(_entropy(array.mean(axis=0)) - _entropy(array).mean()))


def measure_covered(inputs: Inputs) -> dict[str, float]:
    """Return `classes_covered` if there is a classifier and the real images have labels."""
    result = _coverage(inputs)
    return {} if result is None else {"classes_covered": result.covered}


def measure_imbalance(inputs: Inputs) -> dict[str, float]:
    """Return `class_imbalance` if there is a classifier and the real images have labels."""
    result = _coverage(inputs)
    return {} if result is None else {"class_imbalance": result.imbalance}


def measure_score(inputs: Inputs) -> dict[str, float]:
    """Return `class_score` if there is a classifier and the real images have labels."""
    if inputs.real_class_shares is None or inputs.probabilities is None:
        return {}
    return {"class_score": class_score(inputs.probabilities)}


def _coverage(inputs: Inputs) -> ClassCoverage | None:
    real, probabilities = inputs.real_class_shares, inputs.probabilities
    if real is None or probabilities is None:
        return None
    return coverage(real, class_shares(probabilities.argmax(axis=1), len(real)))


def _entropy(probabilities: Floats) -> Floats:
    logarithms = np.log(np.where(probabilities > 0.0, probabilities, 1.0))
    entropy: Floats = -(probabilities * logarithms).sum(axis=-1)
    return entropy
