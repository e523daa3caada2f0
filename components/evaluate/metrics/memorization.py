"""Whether samples are closer to the training images than held-out real images are, as copies would be.

Both metrics use the distance of each sample, and of each held-out image, to its nearest training image.
The first is the share of samples that are closer than 99 % of the held-out images: about 0.01 for a generator that does not
memorize, 1 for one that returns training images. The second is the Mann-Whitney test C_T of Meehan et al. 2020, "A
Non-Parametric Test to Detect Data-Copying in Generative Models", section 3 (with all images in one cell): how often a sample
is closer than a held-out image, and the p-value of that for samples with the distribution of held-out images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.checks import Floats, check_features, check_widths
from components.evaluate.metrics.inputs import Inputs
from components.evaluate.metrics.tiles import nearest_images

PERCENTILE = 1.0
FEWEST_HELD_OUT = 10


class Memorization(NamedTuple):
    """`share` of samples below the threshold; `nearer`: share of pairs whose sample is closer (0.5: equal); p-value."""

    share: float
    nearer: float
    p_value: float


def features_to_statistics(train_features: npt.ArrayLike, held_out_features: npt.ArrayLike) -> Floats:
    """Return the Euclidean distance of each held-out image to its nearest training image: float64 [M].

    train_features [N, D], held_out_features [M, D]. Raises ValueError for fewer than 10 held-out images.
    """
    train, held_out = check_features(train_features, "training"), check_features(held_out_features, "held-out")
    check_widths(train, held_out)
    if len(held_out) < FEWEST_HELD_OUT:
        raise ValueError(f"memorization needs at least {FEWEST_HELD_OUT} held-out images; got {len(held_out)}")
    return nearest_images(held_out, train)[1][:, 0]


def statistics_to_metric(held_out_distances: Floats, fake_distances: Floats) -> Memorization:
    """Return the metrics from distances of held-out [M] and fake [K] images to the same training images."""
    threshold = float(np.percentile(held_out_distances, PERCENTILE))
    nearer, p_value = mann_whitney(fake_distances, held_out_distances)
    return Memorization(float((fake_distances < threshold).mean()), nearer, p_value)


def compute(train_features: npt.ArrayLike, held_out_features: npt.ArrayLike, fake_features: npt.ArrayLike) -> Memorization:
    """Return the memorization of fake features [K, D] for training [N, D] and held-out [M, D] features. Raises ValueError."""
    train, fake = check_features(train_features, "training"), check_features(fake_features, "fake")
    check_widths(train, fake)
    return statistics_to_metric(features_to_statistics(train, held_out_features), nearest_images(fake, train)[1][:, 0])


def mann_whitney(lower: Floats, upper: Floats) -> tuple[float, float]:
    """Return how often a value of `lower` [K] is below one of `upper` [M] (ties count half), and the one-sided p-value.

    Mann and Whitney 1947; the normal approximation with correction for ties and continuity.
    """
    from scipy.stats import mannwhitneyu  # imported here because it takes a third of a second

    if np.ptp(np.concatenate([lower, upper])) == 0.0:
        return 0.5, 1.0  # all values are equal, for which SciPy returns NaN
    test = mannwhitneyu(lower, upper, alternative="less", method="asymptotic")
    return 1.0 - float(test.statistic) / (len(lower) * len(upper)), float(test.pvalue)


def measure_share(inputs: Inputs) -> dict[str, float]:
    """Return `memorization` if the distances to training images are known."""
    if inputs.held_out_distances is None or inputs.fake_distances is None:
        return {}
    return {"memorization": statistics_to_metric(inputs.held_out_distances, inputs.fake_distances).share}


def measure_nearer(inputs: Inputs) -> dict[str, float]:
    """Return `memorization_nearer` and its p-value if the distances to training images are known."""
    if inputs.held_out_distances is None or inputs.fake_distances is None:
        return {}
    _, nearer, p_value = statistics_to_metric(inputs.held_out_distances, inputs.fake_distances)
    return {"memorization_nearer": nearer, "memorization_p": p_value}


def worst_pairs(fake_distances: Floats, nearest: npt.NDArray[np.intp], count: int) -> list[tuple[int, int]]:
    """Return (sample, training image) of the smallest distances [K], closest pair first, each training image once."""
    samples: dict[int, int] = {}
    for sample in np.argsort(fake_distances, kind="stable"):
        samples.setdefault(int(nearest[sample]), int(sample))
    return [(sample, train) for train, sample in samples.items()][:count]
