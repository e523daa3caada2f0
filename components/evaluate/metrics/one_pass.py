"""FID, KID, precision, recall, density, coverage and the nearest training image, each inner product computed once.

The metrics' own files say what is computed, in float64 and one at a time; this says how all of them are computed
together, in float32 tiles whose sums are float64. What depends on the real images alone is a `RealSide`, which can be kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics import fid
from components.evaluate.metrics.kid import KernelSums
from components.evaluate.metrics.prdc import Prdc
from components.evaluate.metrics.products import Floats, check_enough, check_features, check_widths
from components.evaluate.metrics.tiles import (
    Centred,
    Indices,
    Nearest,
    centre,
    distances_of,
    exact_distances,
    inside,
    kernel_of,
    slack_of,
    tiles,
)

SPARE_NEIGHBOURS = 3  # beyond the k-th in float32: the k-th in float64 is among them

Features = npt.NDArray[np.floating]


class Within(NamedTuple):
    """Of one set of N images: the kernel with all others [N], squared radii [N], and Σᵢⱼ uᵢ k(xᵢ, xⱼ) uⱼ, i ≠ j, [B]."""

    kernel_rows: Floats
    radii: Floats
    drawn: Floats


class RealSide(NamedTuple):
    """All that the scores need of the real images alone: of FID, of pairs of them, and the weights' quadratic forms [B]."""

    statistics: fid.Statistics
    root: Floats
    kernel_rows: Floats
    radii: Floats
    drawn: Floats


class Pairs(NamedTuple):
    """What one pass finds: FID, the sums of KID, the four shares, and the nearest real image of each fake one [M].

    `fake_drawn` [B + S] and `mixed_drawn` [B] are the kernel's sums over pairs of fake, and of fake and real, as weighted.
    """

    fid: float
    sums: KernelSums
    shares: Prdc
    nearest: Indices
    nearest_distances: Floats
    fake_drawn: Floats
    mixed_drawn: Floats


def real_side(real_features: Features, k: int, weights: Floats | None = None) -> RealSide:
    """Return what the real features [N, D] alone decide; `weights` [B, N] are how often an image counts. Raises ValueError."""
    real = check_features(real_features, "real")
    check_enough(len(real), k, "real")
    statistics = fid.features_to_statistics(real)
    if (real == real[:1]).all():
        raise ValueError(f"all {len(real)} real images have the same features, so no score means anything")
    found = within(centre(real, statistics.mean), k, _or_none(weights, len(real)))
    return RealSide(statistics, fid.root(statistics.covariance), *found)


def compare(
    real_features: Features,
    fake_features: Features,
    k: int,
    side: RealSide | None = None,
    weights: tuple[Floats, Floats] | None = None,
    of_fake_alone: Floats | None = None,
) -> Pairs:
    """Return all of one pass over real [N, D] and fake [M, D] features.

    `side` is what `real_side` returned for the same real features, k and weights; `weights` are those of real [B, N] and of
    fake [B, M] images, `of_fake_alone` [S, M] more of them for pairs of fake images only. Raises ValueError for too few
    images, features that are not finite, or of unequal width.
    """
    real, fake = check_features(real_features, "real"), check_features(fake_features, "fake")
    check_widths(real, fake)
    check_enough(len(fake), k, "fake")
    side = side or real_side(real, k, weights[0] if weights else None)
    of_real, of_fake = weights or (np.empty((0, len(real))), np.empty((0, len(fake))))
    left, right = centre(real, side.statistics.mean), centre(fake, side.statistics.mean)
    ours = within(right, k, of_fake if of_fake_alone is None else np.concatenate([of_fake, of_fake_alone]))
    shares = _Between(left, right, side.radii, ours.radii)
    mixed_rows, mixed_drawn = np.zeros(len(fake)), np.zeros(len(of_fake))
    nearest = Nearest(len(fake), 1)
    for rows, columns, products in tiles(left, right):
        kernel = kernel_of(products, left.terms[rows], right.terms[columns], real.shape[1])
        mixed_rows[columns] += kernel.sum(axis=0, dtype=np.float64)
        mixed_drawn += _quadratic(of_real[:, rows], kernel, of_fake[:, columns])
        distances = distances_of(products, left.norms[rows], right.norms[columns])
        nearest.look_at(columns, rows, np.ascontiguousarray(distances.T))
        shares.look_at(rows, columns, distances)
    who = nearest.indices[:, 0]
    return Pairs(
        fid=fid.statistics_to_metric(side.statistics, fid.features_to_statistics(fake), side.root),
        sums=KernelSums(float(side.kernel_rows.sum()), ours.kernel_rows, mixed_rows, len(real)),
        shares=shares.result(k),
        nearest=who,
        nearest_distances=np.sqrt(exact_distances(right, left, np.arange(len(fake)), who)),
        fake_drawn=ours.drawn,
        mixed_drawn=mixed_drawn,
    )


def within(features: Centred, k: int, weights: Floats) -> Within:
    """Return what the pairs of different images of one set give; only half of the inner products is computed."""
    size, dimensions = features.values.shape
    kernel_rows, drawn = np.zeros(size), np.zeros(len(weights))
    nearest = Nearest(size, min(size - 1, k + SPARE_NEIGHBOURS))
    for rows, columns, products in tiles(features, features):
        diagonal = np.arange(len(products)) if rows == columns else None
        kernel = kernel_of(products, features.terms[rows], features.terms[columns], dimensions)
        distances = distances_of(products, features.norms[rows], features.norms[columns])
        if diagonal is not None:
            kernel[diagonal, diagonal], distances[diagonal, diagonal] = 0.0, np.inf
        kernel_rows[rows] += kernel.sum(axis=1, dtype=np.float64)
        nearest.look_at(rows, columns, distances)
        drawn += _quadratic(weights[:, rows], kernel, weights[:, columns]) * (1.0 if diagonal is not None else 2.0)
        if diagonal is None:
            kernel_rows[columns] += kernel.sum(axis=0, dtype=np.float64)
            nearest.look_at(columns, rows, np.ascontiguousarray(distances.T))
    return Within(kernel_rows, _exact_radii(features, nearest, k), drawn)


def nearest_of(from_features: Features, to_features: Features) -> tuple[Indices, Floats]:
    """Return for each row [N, D] the index of the nearest row of `to_features` [M, D], and their Euclidean distance."""
    middle = to_features.mean(axis=0, dtype=np.float64)
    left, right = centre(from_features, middle), centre(to_features, middle)
    nearest = Nearest(len(left.values), 1)
    for rows, columns, products in tiles(left, right):
        nearest.look_at(rows, columns, distances_of(products, left.norms[rows], right.norms[columns]))
    who = nearest.indices[:, 0]
    return who, np.sqrt(exact_distances(left, right, np.arange(len(who)), who))


class _Between:
    """Which images of either kind lie in a ball of the other."""

    def __init__(self, real: Centred, fake: Centred, real_radii: Floats, fake_radii: Floats) -> None:
        self.real, self.fake, self.real_radii, self.fake_radii = real, fake, real_radii, fake_radii
        self.balls_around_fake = np.zeros(len(fake.values), np.int64)
        self.covered, self.recalled = np.zeros((2, len(real.values)), np.bool_)

    def look_at(self, rows: slice, columns: slice, distances: npt.NDArray[np.float32]) -> None:
        slack = slack_of(self.real.norms[rows], self.fake.norms[columns])
        for radii, add in (
            (self.real_radii[rows, None], self._add_real_balls),
            (self.fake_radii[None, columns], self._add_fake_balls),
        ):
            found, at_row, at_column = inside(distances, radii, slack)
            again = exact_distances(self.real, self.fake, at_row + rows.start, at_column + columns.start)
            found[at_row, at_column] = again < np.broadcast_to(radii, distances.shape)[at_row, at_column]
            add(rows, columns, found)

    def _add_real_balls(self, rows: slice, columns: slice, found: npt.NDArray[np.bool_]) -> None:
        self.balls_around_fake[columns] += found.sum(axis=0)
        self.covered[rows] |= found.any(axis=1)

    def _add_fake_balls(self, rows: slice, _: slice, found: npt.NDArray[np.bool_]) -> None:
        self.recalled[rows] |= found.any(axis=1)

    def result(self, k: int) -> Prdc:
        return Prdc(
            precision=float((self.balls_around_fake > 0).mean()),
            recall=float(self.recalled.mean()),
            density=float(self.balls_around_fake.mean() / k),
            coverage=float(self.covered.mean()),
        )


def _exact_radii(features: Centred, nearest: Nearest, k: int) -> Floats:
    order = np.argsort(nearest.distances, axis=1)
    found = np.take_along_axis(nearest.distances, order, axis=1)
    who = np.take_along_axis(nearest.indices, order, axis=1)
    rows = np.arange(len(who))
    radii = exact_distances(features, features, rows, who[:, k - 1])
    # Where another neighbour is as near as float32 can tell, the k-th is found among all of them.
    slack = slack_of(features.norms, features.norms)
    close = (np.abs(found - found[:, k - 1 : k]) <= slack).sum(axis=1) > 1
    again, count = rows[close], who.shape[1]
    distances = exact_distances(features, features, np.repeat(again, count), who[again].ravel()).reshape(-1, count)
    radii[again] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return radii


def _quadratic(of_rows: Floats, kernel: npt.NDArray[np.float32], of_columns: Floats) -> Floats:
    if not len(of_rows):
        return np.zeros(0)
    sums: Floats = np.einsum("bn,bn->b", of_rows.astype(np.float32) @ kernel, of_columns, dtype=np.float64, casting="same_kind")
    return sums


def _or_none(weights: Floats | None, count: int) -> Floats:
    return np.empty((0, count)) if weights is None else weights
