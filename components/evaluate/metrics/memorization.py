"""Whether samples lie nearer to the training images than real images do that cannot have been copied.

Two answers, both from distances to the nearest training image, of samples and of held-out real images, to the same training
images. The share of samples nearer than 99 % of held-out images: 0.01 of a generator that does not memorise, 1 of one that
returns training images. And the Mann-Whitney test that Meehan et al. 2020, "A Non-Parametric Test to Detect Data-Copying in
Generative Models", section 3, calls C_T (here of all images as one cell): how often a sample is the nearer one of a
sample and a held-out image, and how likely that much would be if samples were further images of the same kind.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.inputs import Inputs
from components.evaluate.metrics.products import Floats, check_features, check_widths
from components.evaluate.metrics.tiles import nearest_images

PERCENTILE = 1.0
FEWEST_HELD_OUT = 10


class Memorization(NamedTuple):
    """`share` of samples below the threshold; `nearer`: of pairs in which the sample is nearer, 0.5 when alike; one-sided p."""

    share: float
    nearer: float
    p_value: float


def features_to_statistics(train_features: npt.ArrayLike, held_out_features: npt.ArrayLike) -> Floats:
    """Return the distance of each held-out real image to its nearest training image: float64 [M].

    train_features [N, D], held_out_features [M, D]; Euclidean, in units of the features. Raises ValueError below 10.
    """
    train, held_out = check_features(train_features, "training"), check_features(held_out_features, "held-out")
    check_widths(train, held_out)
    if len(held_out) < FEWEST_HELD_OUT:
        raise ValueError(f"memorization needs at least {FEWEST_HELD_OUT} held-out images; got {len(held_out)}")
    return nearest_images(held_out, train)[1][:, 0]


def statistics_to_metric(held_out_distances: Floats, fake_distances: Floats) -> Memorization:
    """Return share, nearer and p-value from distances of held-out [M] and fake [K] images to the same training images."""
    threshold = float(np.percentile(held_out_distances, PERCENTILE))
    nearer, p_value = mann_whitney(fake_distances, held_out_distances)
    return Memorization(float((fake_distances < threshold).mean()), nearer, p_value)


def compute(train_features: npt.ArrayLike, held_out_features: npt.ArrayLike, fake_features: npt.ArrayLike) -> Memorization:
    """Return the memorization of fake features [K, D] given training [N, D] and held-out [M, D] ones. Raises ValueError."""
    train, fake = check_features(train_features, "training"), check_features(fake_features, "fake")
    check_widths(train, fake)
    return statistics_to_metric(features_to_statistics(train, held_out_features), nearest_images(fake, train)[1][:, 0])


def mann_whitney(lower: Floats, upper: Floats) -> tuple[float, float]:
    """Return how often a value of `lower` [K] is below one of `upper` [M], ties half, and the p-value of that much or more.

    Mann and Whitney 1947; the normal approximation with correction for ties and continuity.
    """
    from scipy.stats import mannwhitneyu  # here: it takes a third of a second to import, and pages that show scores need it not

    if np.ptp(np.concatenate([lower, upper])) == 0.0:
        return 0.5, 1.0  # all tied: there is nothing to rank
    found = mannwhitneyu(lower, upper, alternative="less", method="asymptotic")
    return 1.0 - float(found.statistic) / (len(lower) * len(upper)), float(found.pvalue)


def measure_share(inputs: Inputs) -> dict[str, float]:
    """Return `memorization`, where the distances to training images are known."""
    if inputs.held_out_distances is None or inputs.fake_distances is None:
        return {}
    return {"memorization": statistics_to_metric(inputs.held_out_distances, inputs.fake_distances).share}


def measure_nearer(inputs: Inputs) -> dict[str, float]:
    """Return `memorization_nearer` and its p-value, where the distances to training images are known."""
    if inputs.held_out_distances is None or inputs.fake_distances is None:
        return {}
    found = statistics_to_metric(inputs.held_out_distances, inputs.fake_distances)
    return {"memorization_nearer": found.nearer, "memorization_p": found.p_value}


def worst_pairs(fake_distances: Floats, nearest: npt.NDArray[np.intp], count: int) -> list[tuple[int, int]]:
    """Return (sample, training image) of the smallest distances [K], nearest first, each training image once."""
    seen: dict[int, int] = {}
    for sample in np.argsort(fake_distances, kind="stable"):
        seen.setdefault(int(nearest[sample]), int(sample))
        if len(seen) == count:
            break
    return [(sample, train) for train, sample in seen.items()]
