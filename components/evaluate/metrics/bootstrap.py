"""How far a score would scatter with other images: the bootstrap (Efron and Tibshirani 1993, chapters 6 and 13); pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics import fid
from components.evaluate.metrics.kid import Between, Within
from components.evaluate.metrics.products import Floats, as_features, check_pair
from components.evaluate.metrics.tiles import Features, centre, scan

REPLICATES = 200
FID_REPLICATES = 100
MOST_FID_FEATURES = 512  # an interval takes FID_REPLICATES times an eigenvalue problem of this size
ENDS = (0.025, 0.975)

Interval = tuple[float, float]


def kid_interval(real_features: npt.ArrayLike, fake_features: npt.ArrayLike, seed: int) -> Interval:
    """Return the ends of KID's 95 % interval, real [N, D] and fake [M, D] features both resampled; percentiles."""
    real, fake = check_pair(real_features, fake_features)
    of_real, of_fake = both_weights(len(real), len(fake), seed)
    drawn = pairs_within(real, of_real), pairs_within(fake, of_fake), pairs_between(real, fake, of_real, of_fake)
    return interval_of_sums(*drawn, of_real, of_fake)


def both_weights(real_count: int, fake_count: int, seed: int) -> tuple[Floats, Floats]:
    """Return the weights of real and of fake images; those of real ones are the same whatever the number of fake ones."""
    generator = np.random.default_rng(seed)
    return weights(generator, real_count, REPLICATES), weights(generator, fake_count, REPLICATES)


def interval_of_sums(real_sums: Floats, fake_sums: Floats, mixed_sums: Floats, of_real: Floats, of_fake: Floats) -> Interval:
    """Return the ends of KID's interval from the kernel's sums over real, fake and mixed pairs under the weights."""
    mixed = mixed_sums / (of_fake.sum(axis=1) * of_real.sum(axis=1))
    drawn = real_sums / _pairs(of_real) + fake_sums / _pairs(of_fake) - 2.0 * mixed
    low, high = np.quantile(drawn[1:], ENDS)
    return float(low), float(high)


def fid_interval(real_features: npt.ArrayLike, fake_features: npt.ArrayLike, seed: int) -> Interval | None:
    """Return the ends of FID's 95 % interval, both kinds resampled; None for more than 512 features, where it takes long.

    A resampling holds fewer different images, which alone raises FID; so its scatter is laid around the FID that was found.
    """
    real, fake = as_features(real_features), as_features(fake_features)
    if real.shape[1] > MOST_FID_FEATURES:
        return None
    generator = np.random.default_rng(seed)
    found = fid.compute(real, fake)
    drawn = [
        fid.compute(real[generator.integers(0, len(real), len(real))], fake[generator.integers(0, len(fake), len(fake))])
        for _ in range(FID_REPLICATES)
    ]
    low, high = np.quantile(drawn, ENDS) - np.mean(drawn)
    return max(0.0, found + float(low)), found + float(high)


def weights(generator: np.random.Generator, count: int, replicates: int) -> Floats:
    """Return how often each image is drawn, float64 [1 + replicates, count]; the first row is the sample itself."""
    drawn = generator.multinomial(count, np.full(count, 1.0 / count), size=replicates)
    return np.concatenate([np.ones((1, count)), drawn])


def mean_over_pairs(features: Features, drawn: Floats) -> Floats:
    """Return the mean kernel over pairs of different images [N, D], as drawn [B, N]: float64 [B].

    An image drawn twice is not a pair of different images: such pairs would bring the bias back that KID is free of.
    """
    mean: Floats = pairs_within(features, drawn) / _pairs(drawn)
    return mean


def pairs_within(features: Features, drawn: Floats) -> Floats:
    """Return the kernel's sum over pairs of different images [N, D], as drawn [B, N]: float64 [B]."""
    centred = centre(features, features.mean(axis=0, dtype=np.float64))
    kernel = Within(len(features), drawn)
    scan(centred, centred, kernel)
    return kernel.drawn


def pairs_between(real: Features, fake: Features, of_real: Floats, of_fake: Floats) -> Floats:
    """Return the kernel's sum over pairs of real [N, D] and fake [M, D] images, as drawn [B, N] and [B, M]: float64 [B]."""
    middle = real.mean(axis=0, dtype=np.float64)
    kernel = Between(len(fake), of_real, of_fake)
    scan(centre(real, middle), centre(fake, middle), kernel)
    return kernel.drawn


def _pairs(drawn: Floats) -> Floats:
    pairs: Floats = drawn.sum(axis=1) ** 2 - (drawn**2).sum(axis=1)
    return pairs
