"""Precision, recall, density and coverage of fake features against real ones.

Precision and recall: Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models".
Density and coverage: Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models". Each image has a
ball, whose radius is the distance to its k-th nearest neighbour among the other images of its kind (real or fake). An image is
in a ball if its distance to the centre is strictly smaller than the radius.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.checks import Floats, check_enough, check_features, check_pair
from components.evaluate.metrics.tiles import (
    Centred,
    Features,
    Indices,
    Nearest,
    Tile,
    Uses,
    centre,
    exact_distances,
    inside,
    scan,
    slack_of,
)

SPARE_NEIGHBOURS = 3  # neighbours that are found in addition to k, because rounding may change their order


class Prdc(NamedTuple):
    """Four shares; 1 is best, but density exceeds 1 if fake images crowd in dense real regions."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbours_of(features: Centred, k: int) -> Nearest:
    """Return the accumulator that `radii` needs, for a scan of a set with itself."""
    size = len(features.values)
    return Nearest(size, min(size - 1, k + SPARE_NEIGHBOURS), "left")


def radii(features: Centred, nearest: Nearest, k: int) -> Floats:
    """Return the exact squared radius of each image's ball, float64 [N]."""
    order = np.argsort(nearest.distances, axis=1)
    rounded = np.take_along_axis(nearest.distances, order, axis=1)
    neighbours = np.take_along_axis(nearest.indices, order, axis=1)
    rows = np.arange(len(neighbours))
    squared = exact_distances(features, features, rows, neighbours[:, k - 1])
    # If another neighbour is as near as the k-th within rounding, all of them are compared exactly.
    slack = slack_of(features.norms, features.norms)
    close = (np.abs(rounded - rounded[:, k - 1 : k]) <= slack).sum(axis=1) > 1
    again, count = rows[close], neighbours.shape[1]
    distances = exact_distances(features, features, np.repeat(again, count), neighbours[again].ravel()).reshape(-1, count)
    squared[again] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return squared


class Balls:
    """Counts which real (left) and fake (right) images lie in balls of the other kind."""

    uses: Uses = "distances"

    def __init__(self, real_radii: Floats, fake_radii: Floats) -> None:
        self._real_radii, self._fake_radii = real_radii, fake_radii
        self._balls_around_fake = np.zeros(len(fake_radii), np.int64)
        self._covered, self._recalled = np.zeros((2, len(real_radii)), np.bool_)

    def add(self, tile: Tile) -> None:
        """Add a tile."""
        rows, columns = _inside(tile, self._real_radii[tile.rows, None])
        self._balls_around_fake[tile.columns] += np.bincount(columns, minlength=len(self._balls_around_fake[tile.columns]))
        self._covered[tile.rows.start + rows] = True
        rows, _ = _inside(tile, self._fake_radii[None, tile.columns])
        self._recalled[tile.rows.start + rows] = True

    def shares(self, k: int) -> Prdc:
        """Return the four shares.

        precision: of fake images in some real ball; recall: of real images in some fake ball; density: mean number of real
        balls around a fake image, divided by k; coverage: of real balls with some fake image.
        """
        return Prdc(
            precision=float((self._balls_around_fake > 0).mean()),
            recall=float(self._recalled.mean()),
            density=float(self._balls_around_fake.mean() / k),
            coverage=float(self._covered.mean()),
        )


def expected_coverage(real: int, fake: int, k: int) -> float:
    """Return the coverage that `fake` images with the distribution of the `real` ones have on average.

    An image's ball holds none of them if its k nearest neighbours among all others are real (Naeem et al. 2020, section 3.2).
    """
    return 1.0 - math.prod((real - 1 - index) / (real + fake - 1 - index) for index in range(k))


def compute(real_features: npt.ArrayLike, fake_features: npt.ArrayLike, k: int) -> Prdc:
    """Return precision, recall, density and coverage of fake features [M, D] against real [N, D]. Raises ValueError."""
    real, fake = check_pair(real_features, fake_features)
    middle = real.mean(axis=0, dtype=np.float64)
    left, right = centre(real, middle), centre(fake, middle)
    balls = Balls(_radii_of(left, k, "real"), _radii_of(right, k, "fake"))
    scan(left, right, balls)
    return balls.shares(k)


def squared_radii(features: npt.ArrayLike, k: int) -> Floats:
    """Return the squared radius of each image's ball: float64 [N] for features [N, D]. Raises ValueError if N ≤ k."""
    array: Features = check_features(features, "image")
    return _radii_of(centre(array, array.mean(axis=0, dtype=np.float64)), k, "image")


def _radii_of(features: Centred, k: int, kind: str) -> Floats:
    check_enough(len(features.values), k, kind)
    nearest = neighbours_of(features, k)
    scan(features, features, nearest)
    return radii(features, nearest, k)


def _inside(tile: Tile, squared: Floats) -> tuple[Indices, Indices]:
    """Return rows and columns of the pairs in a tile whose squared distance is below `squared`, [rows, 1] or [1, columns]."""
    slack = slack_of(tile.left.norms[tile.rows], tile.right.norms[tile.columns])
    rows, columns, unsure = inside(tile.distances, squared, slack)
    exact = exact_distances(tile.left, tile.right, rows[unsure] + tile.rows.start, columns[unsure] + tile.columns.start)
    is_inside = np.ones(len(rows), np.bool_)
    is_inside[unsure] = exact < np.broadcast_to(squared, tile.distances.shape)[rows[unsure], columns[unsure]]
    return rows[is_inside], columns[is_inside]
