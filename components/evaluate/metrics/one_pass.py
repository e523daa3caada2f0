"""FID, KID, precision, recall, density, coverage and the nearest real image, each inner product computed once.

The accumulators are the metrics' own (kid.py, prdc.py); here all of them take part in the same scans (tiles.py). What depends
on the real images alone is a `RealSide`, which can be cached.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from components.evaluate.metrics import fid
from components.evaluate.metrics.kid import Between, KernelSums, Within
from components.evaluate.metrics.prdc import Balls, Prdc, neighbours_of, radii
from components.evaluate.metrics.products import Floats, check_enough, check_features, check_pair
from components.evaluate.metrics.tiles import Centred, Features, Indices, Nearest, centre, exact_distances, scan


class RealSide(NamedTuple):
    """All that the scores need of the real images alone.

    FID's statistics and root; of the kernel the row sums [N] and the weights' quadratic forms [B]; squared radii [N].
    """

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
    kernel, squared = _within(centre(real, statistics.mean), k, weights)
    return RealSide(statistics, fid.root(statistics.covariance), kernel.rows, squared, kernel.drawn)


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
    real, fake = check_pair(real_features, fake_features)
    check_enough(len(fake), k, "fake")
    side = side or real_side(real, k, weights[0] if weights else None)
    of_real, of_fake = weights or (np.empty((0, len(real))), np.empty((0, len(fake))))
    left, right = centre(real, side.statistics.mean), centre(fake, side.statistics.mean)
    ours, squared = _within(right, k, of_fake if of_fake_alone is None else np.concatenate([of_fake, of_fake_alone]))
    mixed, balls = Between(len(fake), of_real, of_fake), Balls(side.radii, squared)
    nearest = Nearest(len(fake), 1, "right")
    scan(left, right, mixed, nearest, balls)
    who = nearest.indices[:, 0]
    return Pairs(
        fid=fid.statistics_to_metric(side.statistics, fid.features_to_statistics(fake), side.root),
        sums=KernelSums(float(side.kernel_rows.sum()), ours.rows, mixed.rows, len(real)),
        shares=balls.shares(k),
        nearest=who,
        nearest_distances=np.sqrt(exact_distances(right, left, np.arange(len(fake)), who)),
        fake_drawn=ours.drawn,
        mixed_drawn=mixed.drawn,
    )


def _within(features: Centred, k: int, weights: Floats | None) -> tuple[Within, Floats]:
    """Return the kernel's sums over pairs of different images of one set, and the squared radii [N]."""
    kernel, nearest = Within(len(features.values), weights), neighbours_of(features, k)
    scan(features, features, kernel, nearest)
    return kernel, radii(features, nearest, k)
