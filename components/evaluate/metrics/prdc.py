"""Precision, recall, density and coverage of fake features against real ones.

Precision and recall: Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models".
Density and coverage: Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models". Around every
image lies a ball whose radius is the distance to its k-th nearest neighbour of its own kind, itself not counted; an
image is in a ball when it is nearer to the centre than the radius, strictly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.products import (
    Floats,
    as_features,
    check_widths,
    inner_products,
    squared_distances,
    squared_norms,
)


class Prdc(NamedTuple):
    """Four shares: 1 is best for each but density, which exceeds 1 where fake images crowd in dense real regions."""

    precision: float
    recall: float
    density: float
    coverage: float


def features_to_statistics(features: npt.ArrayLike, k: int) -> Floats:
    """Return the squared radius of each image's ball: float64 [N] for features [N, D]. Raises ValueError when N ≤ k."""
    array = as_features(features)
    if len(array) <= k:
        raise ValueError(f"k = {k} neighbours need more than {k} images; got {len(array)}")
    norms = squared_norms(array)
    radii = np.empty(len(array))
    for rows, products in inner_products(array, array):
        distances = squared_distances(products, norms[rows], norms)
        # An image is its own 0-th neighbour at a distance of exactly 0, which rounding must not undo.
        distances[np.arange(len(distances)), np.arange(rows.start, rows.stop)] = 0.0
        distances.partition(k, axis=1)
        radii[rows] = distances[:, k]
    return radii


def statistics_to_metric(
    real_features: npt.ArrayLike, fake_features: npt.ArrayLike, real_radii: Floats, fake_radii: Floats, k: int
) -> Prdc:
    """Return the four shares from the features and the squared radii of both kinds.

    precision: of fake images in some real ball; recall: of real images in some fake ball; density: real balls around a
    fake image, by k; coverage: of real balls with some fake image.
    """
    real, fake = as_features(real_features), as_features(fake_features)
    check_widths(real, fake)
    real_norms, fake_norms = squared_norms(real), squared_norms(fake)
    balls_around_fake = np.zeros(len(fake), np.int64)
    recalled = covered = 0
    for rows, products in inner_products(real, fake):
        distances = squared_distances(products, real_norms[rows], fake_norms)
        in_real_ball = distances < real_radii[rows, None]
        balls_around_fake += in_real_ball.sum(axis=0)
        covered += int(in_real_ball.any(axis=1).sum())
        recalled += int((distances < fake_radii[None, :]).any(axis=1).sum())
    return Prdc(
        precision=float((balls_around_fake > 0).mean()),
        recall=recalled / len(real),
        density=float(balls_around_fake.mean() / k),
        coverage=covered / len(real),
    )


def compute(real_features: npt.ArrayLike, fake_features: npt.ArrayLike, k: int) -> Prdc:
    """Return precision, recall, density and coverage of fake features [M, D] against real [N, D]. Raises ValueError."""
    real_radii, fake_radii = features_to_statistics(real_features, k), features_to_statistics(fake_features, k)
    return statistics_to_metric(real_features, fake_features, real_radii, fake_radii, k)
