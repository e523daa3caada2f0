"""Bootstrap intervals of FID and KID (Efron and Tibshirani 1993, chapters 6 and 13)."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics import fid
from components.evaluate.metrics.checks import Floats, as_features, check_pair
from components.evaluate.metrics.kid import Between, Within
from components.evaluate.metrics.tiles import Features, centre, scan

REPLICATES = 200
FID_REPLICATES = 100
MOST_FID_FEATURES = 512  # each replicate solves an eigenvalue problem of this size
ENDS = (0.025, 0.975)

Interval = tuple[float, float]


def kid_interval(real_features: npt.ArrayLike, fake_features: npt.ArrayLike, seed: int) -> Interval:
    """Return the 95 % percentile interval of KID; both real [N, D] and fake [M, D] features are resampled."""
    real, fake = check_pair(real_features, fake_features)
    of_real, of_fake = both_weights(len(real), len(fake), seed)
    drawn = pairs_within(real, of_real), pairs_within(fake, of_fake), pairs_between(real, fake, of_real, of_fake)
    return interval_of_sums(*drawn, of_real, of_fake)


def both_weights(real_count: int, fake_count: int, seed: int) -> tuple[Floats, Floats]:
    """Return the weights of real and of fake images; the weights of real images do not depend on `fake_count`."""
    generator = np.random.default_rng(seed)
    return weights(generator, real_count, REPLICATES), weights(generator, fake_count, REPLICATES)


def interval_of_sums(real_sums: Floats, fake_sums: Floats, mixed_sums: Floats, of_real: Floats, of_fake: Floats) -> Interval:
    """Return the interval of KID from the weighted sums of the kernel over real, fake and mixed pairs."""
    mixed = mixed_sums / (of_fake.sum(axis=1) * of_real.sum(axis=1))
    drawn = real_sums / _pairs(of_real) + fake_sums / _pairs(of_fake) - 2.0 * mixed
    low, high = np.quantile(drawn[1:], ENDS)
    return float(low), float(high)


def fid_interval(real_features: npt.ArrayLike, fake_features: npt.ArrayLike, seed: int) -> Interval | None:
    """Return the 95 % interval of FID, or None for more than 512 features, because it would take long.

    A resample contains fewer distinct images, which raises FID. So the interval is the scatter of the resamples, moved to the
    FID of the original images.
    """
    real, fake = as_features(real_features), as_features(fake_features)
    if real.shape[1] > MOST_FID_FEATURES:
        return None
    generator, score = np.random.default_rng(seed), fid.compute(real, fake)
    counts: tuple[list[Floats], list[Floats]] = ([], [])
    for _, (array, of_array) in itertools.product(range(FID_REPLICATES), zip((real, fake), counts, strict=True)):
        rows = generator.integers(0, len(array), len(array))
        of_array.append(np.bincount(rows, minlength=len(array)).astype(np.float64))
    of_real, of_fake = (_resampled(array, np.stack(each)) for array, each in zip((real, fake), counts, strict=True))
    drawn = [fid.statistics_to_metric(*pair) for pair in zip(of_real, of_fake, strict=True)]
    low, high = np.quantile(drawn, ENDS) - np.mean(drawn)
    return max(0.0, score + float(low)), score + float(high)


def _resampled(features: Floats, drawn: Floats) -> list[fid.Statistics]:
    """Return the statistics of each resample [R] of features [N, D]; `drawn` [R, N] is how often each image is in it.

    Products of feature columns, weighted for all resamples at once: no copies of the features, and half of a symmetric matrix.
    """
    count, width = features.shape
    middle = features.mean(axis=0)
    centred = features - middle
    means = drawn @ centred / count
    covariances, weighted = np.empty((len(drawn), width, width)), np.empty_like(drawn)
    for column in range(width):
        products = np.multiply(drawn, centred[:, column], out=weighted) @ centred[:, column:]
        products = (products - count * means[:, column, None] * means[:, column:]) / (count - 1)
        covariances[:, column, column:] = covariances[:, column:, column] = products
    return [fid.Statistics(mean + middle, covariance) for mean, covariance in zip(means, covariances, strict=True)]


def weights(generator: np.random.Generator, count: int, replicates: int) -> Floats:
    """Return how often each image is drawn, float64 [1 + replicates, count]; the first row is the original sample."""
    drawn = generator.multinomial(count, np.full(count, 1.0 / count), size=replicates)
    return np.concatenate([np.ones((1, count)), drawn])


def mean_over_pairs(features: Features, drawn: Floats) -> Floats:
    """Return the mean kernel over pairs of different images [N, D] with weights `drawn` [B, N]: float64 [B].

    An image that is drawn twice does not form a pair with itself: KID would be biased otherwise.
    """
    mean: Floats = pairs_within(features, drawn) / _pairs(drawn)
    return mean


def pairs_within(features: Features, drawn: Floats) -> Floats:
    """Return the sum of the kernel over pairs of different images [N, D] with weights `drawn` [B, N]: float64 [B]."""
    centred = centre(features, features.mean(axis=0, dtype=np.float64))
    kernel = Within(len(features), drawn)
    scan(centred, centred, kernel)
    return kernel.drawn


def pairs_between(real: Features, fake: Features, of_real: Floats, of_fake: Floats) -> Floats:
    """Return the sum of the kernel over pairs of real [N, D] and fake [M, D] images with weights [B, N] and [B, M]: [B]."""
    middle = real.mean(axis=0, dtype=np.float64)
    kernel = Between(len(fake), of_real, of_fake)
    scan(centre(real, middle), centre(fake, middle), kernel)
    return kernel.drawn


def _pairs(drawn: Floats) -> Floats:
    pairs: Floats = drawn.sum(axis=1) ** 2 - (drawn**2).sum(axis=1)
    return pairs
