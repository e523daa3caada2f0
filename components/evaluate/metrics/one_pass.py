"""FID, KID, precision, recall, density, coverage and the nearest real images, with each inner product computed once.

The accumulators of kid.py and prdc.py share the same scans (tiles.py). What depends only on the real images is in `RealSide`,
which can be cached.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from components.evaluate.metrics import fid
from components.evaluate.metrics.checks import Floats, check_enough, check_features, check_pair
from components.evaluate.metrics.kid import Between, KernelSums, Within
from components.evaluate.metrics.prdc import Balls, Prdc, neighbours_of, radii
from components.evaluate.metrics.tiles import Centred, Features, Indices, Nearest, centre, exact_distances, scan


class RealSide(NamedTuple):
    """What the scores need from the real images.

    statistics and root: for FID; kernel_rows [N]: row sums of the kernel; radii [N]: squared radii of the balls; drawn [B]:
    weighted sums of the kernel.
    """

    statistics: fid.Statistics
    root: Floats
    kernel_rows: Floats
    radii: Floats
    drawn: Floats


class Pairs(NamedTuple):
    """The result of one pass: FID, the sums of KID, the four shares, and the nearest real image of each fake one [M].

    `fake_drawn` [B + S] and `mixed_drawn` [B] are the weighted sums of the kernel over fake and mixed pairs.
    """

    fid: float
    sums: KernelSums
    shares: Prdc
    nearest: Indices
    nearest_distances: Floats
    fake_drawn: Floats
    mixed_drawn: Floats


def real_side(real_features: Features, k: int, weights: Floats | None = None) -> RealSide:
    """Return what depends only on the real features [N, D]; `weights` [B, N] are those of the images. Raises ValueError."""
    real = check_features(real_features, "real")
    check_enough(len(real), k, "real")
    statistics = fid.features_to_statistics(real)
    if (real == real[:1]).all():
        raise ValueError(f"all {len(real)} real images have the same features, so scores would be meaningless")
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
    """Compare real [N, D] and fake [M, D] features in one pass.

    `side` is the result of `real_side` for the same real features, k and weights. `weights` are those of real [B, N] and of
    fake [B, M] images, `of_fake_alone` [S, M] further ones for pairs of fake images. Raises ValueError for too few images, or
    features that are not finite or differ in width.
    """
    real, fake = check_pair(real_features, fake_features)
    check_enough(len(fake), k, "fake")
    side = side or real_side(real, k, weights[0] if weights else None)
    of_real, of_fake = weights or (np.empty((0, len(real))), np.empty((0, len(fake))))
    left, right = centre(real, side.statistics.mean), centre(fake, side.statistics.mean)
    within, squared = _within(right, k, of_fake if of_fake_alone is None else np.concatenate([of_fake, of_fake_alone]))
    mixed, balls = Between(len(fake), of_real, of_fake), Balls(side.radii, squared)
    nearest = Nearest(len(fake), 1, "right")
    scan(left, right, mixed, nearest, balls)
    indices = nearest.indices[:, 0]
    return Pairs(
        fid=fid.statistics_to_metric(side.statistics, fid.features_to_statistics(fake), side.root),
        sums=KernelSums(float(side.kernel_rows.sum()), within.rows, mixed.rows, len(real)),
        shares=balls.shares(k),
        nearest=indices,
        nearest_distances=np.sqrt(exact_distances(right, left, np.arange(len(fake)), indices)),
        fake_drawn=within.drawn,
        mixed_drawn=mixed.drawn,
    )


def _within(features: Centred, k: int, weights: Floats | None) -> tuple[Within, Floats]:
    """Return the sums of the kernel over pairs of different images in one set, and the squared radii [N]."""
    kernel, nearest = Within(len(features.values), weights), neighbours_of(features, k)
    scan(features, features, kernel, nearest)
    return kernel, radii(features, nearest, k)
