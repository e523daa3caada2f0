"""How many classes a classifier sees in samples, each clearly: the Inception Score with another classifier.

Salimans et al. 2016, "Improved Techniques for Training GANs", section 4: exp(E KL(p(y|x) ‖ p(y))), the exponential of the
entropy of the mean probabilities less the mean entropy. With a classifier of K classes it lies between 1 (one class, or
every image a riddle) and K (all classes alike, every image clear). It looks at no real image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.products import Floats

TOLERANCE = 1e-3


class Entropies(NamedTuple):
    """In nats: of the mean probabilities (how many classes), and the mean of each image's (how unclear)."""

    of_mean: float
    mean_of_each: float


def features_to_statistics(probabilities: npt.ArrayLike) -> Entropies:
    """Return both entropies of class probabilities [N, K] of images of one kind. Raises ValueError when they are none."""
    array = np.asarray(probabilities, np.float64)
    if array.ndim != 2 or not array.size or not (np.abs(array.sum(axis=1) - 1.0) < TOLERANCE).all() or array.min() < 0.0:
        raise ValueError(f"probabilities must be [N, K], not below 0, with rows that add up to 1; got {list(array.shape)}")
    return Entropies(float(_entropy(array.mean(axis=0))), float(_entropy(array).mean()))


def statistics_to_metric(fake: Entropies) -> float:
    """Return the score of fake images from their entropies: 1 to K, more is better."""
    return float(np.exp(fake.of_mean - fake.mean_of_each))


def compute(fake_probabilities: npt.ArrayLike) -> float:
    """Return the score of fake images from their class probabilities [M, K]. Raises ValueError."""
    return statistics_to_metric(features_to_statistics(fake_probabilities))


def _entropy(probabilities: Floats) -> Floats:
    logarithms = np.log(np.where(probabilities > 0.0, probabilities, 1.0))
    entropy: Floats = -(probabilities * logarithms).sum(axis=-1)
    return entropy
