"""The evidence that a candidate's KID is better than the champion's beyond noise; pure.

Both are scored against the same real images, so the term of real pairs cancels in the difference, and both share the sampling
error of the real images. The bootstrap (Efron and Tibshirani 1993, chapter 13) resamples both sets of samples and, once for
both, the real images; the share of resamplings in which the candidate is better is the confidence that it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.bootstrap import mean_over_pairs, pairs_between, weights
from components.evaluate.metrics.checks import Floats, as_features


class Evidence(NamedTuple):
    """The champion's KID minus the candidate's: above 0 the candidate is better.

    `share_better` is the share of `replicates` resamplings with a difference above 0; `low` and `high` are their 5th and 95th
    percentiles.
    """

    difference: float
    share_better: float
    low: float
    high: float
    replicates: int


def compare(
    real_features: npt.ArrayLike,
    candidate_features: npt.ArrayLike,
    champion_features: npt.ArrayLike,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> Evidence:
    """Return the evidence for the candidate's features [M, D] over the champion's [K, D], both against real ones [N, D].

    Cost: the three kernels once, and one product of the weights [replicates, ·] with each. Raises ValueError when the features
    cannot be compared.
    """
    real, candidate, champion = (as_features(each) for each in (real_features, candidate_features, champion_features))
    widths = {name: each.shape[1] for name, each in (("real", real), ("candidate", candidate), ("champion", champion))}
    if len(set(widths.values())) > 1:
        raise ValueError(f"features differ in width: {', '.join(f'{name} {width}' for name, width in widths.items())}")
    if min(len(candidate), len(champion)) < 2:
        raise ValueError(f"KID needs at least 2 images of each kind; got {len(candidate)} and {len(champion)}")
    generator = np.random.default_rng(seed)
    of_real, of_candidate, of_champion = (weights(generator, len(each), replicates) for each in (real, candidate, champion))
    champion_kids = _kid_without_real_pairs(champion, real, of_champion, of_real)
    differences = champion_kids - _kid_without_real_pairs(candidate, real, of_candidate, of_real)
    resampled = differences[1:]  # the first is of the images as they are
    low, high = np.quantile(resampled, (0.05, 0.95))
    return Evidence(float(differences[0]), float((resampled > 0).mean()), float(low), float(high), replicates)


def _kid_without_real_pairs(fake: Floats, real: Floats, of_fake: Floats, of_real: Floats) -> Floats:
    """Return KID without its term of real pairs, which cancels in a difference: float64 [1 + replicates]."""
    mixed = pairs_between(real, fake, of_real, of_fake) / (of_fake.sum(axis=1) * of_real.sum(axis=1))
    difference: Floats = mean_over_pairs(fake, of_fake) - 2.0 * mixed
    return difference
