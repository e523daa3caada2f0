"""Kernel distance between two sets of features (KID).

Bińkowski et al. 2018, "Demystifying MMD GANs", section 4: the squared maximum mean discrepancy with the kernel
k(x, y) = (x·y / D + 1)³, by the unbiased estimator of Gretton et al. 2012, "A Kernel Two-Sample Test", equation 3. It
scatters around 0, so may be below 0, when real and fake features have the same distribution.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.products import Floats, as_features, inner_products, squared_norms


class KernelSums(NamedTuple):
    """Sums of the kernel over all pairs of two different real, two different fake, and one real and one fake image."""

    real_pairs: float
    fake_pairs: float
    mixed_pairs: float
    real_count: int
    fake_count: int


def kernel(products: Floats, dimensions: int) -> Floats:
    """Return (x·y / D + 1)³ for inner products of any shape."""
    base = products / dimensions
    base += 1.0
    cube = base * base
    cube *= base
    return cube


def features_to_statistics(real_features: npt.ArrayLike, fake_features: npt.ArrayLike) -> KernelSums:
    """Return the three sums of the kernel over features [N, D] (real) and [M, D] (fake). Raises ValueError."""
    real, fake = as_features(real_features), as_features(fake_features)
    return KernelSums(_sum_of_pairs(real), _sum_of_pairs(fake), _sum(real, fake), len(real), len(fake))


def statistics_to_metric(sums: KernelSums) -> float:
    """Return the unbiased squared MMD: the mean over pairs of real, plus that of fake, less twice that of mixed."""
    real, fake = sums.real_count, sums.fake_count
    if min(real, fake) < 2:
        raise ValueError(f"KID needs at least 2 images of each kind; got {real} real and {fake} fake")
    within = sums.real_pairs / (real * (real - 1)) + sums.fake_pairs / (fake * (fake - 1))
    return within - 2.0 * sums.mixed_pairs / (real * fake)


def compute(real_features: npt.ArrayLike, fake_features: npt.ArrayLike) -> float:
    """Return the KID of fake features [M, D] against real features [N, D] over all images; 0 is best."""
    return statistics_to_metric(features_to_statistics(real_features, fake_features))


def subset_estimates(
    real_features: npt.ArrayLike, fake_features: npt.ArrayLike, *, subsets: int, share: float, seed: int
) -> Floats:
    """Return the KID of each of `subsets` random subsets, float64 [subsets].

    A subset has round(share × N) real and round(share × M) fake images, drawn without replacement; `seed` fixes all.
    """
    real, fake = as_features(real_features), as_features(fake_features)
    generator = np.random.default_rng(seed)
    estimates = np.empty(subsets)
    for index in range(subsets):
        real_rows = generator.choice(len(real), round(share * len(real)), replace=False)
        fake_rows = generator.choice(len(fake), round(share * len(fake)), replace=False)
        estimates[index] = compute(real[real_rows], fake[fake_rows])
    return estimates


def standard_error(
    real_features: npt.ArrayLike, fake_features: npt.ArrayLike, *, subsets: int, subset_size: int, seed: int
) -> float:
    """Return the standard error of `compute` over all images: how far it would scatter with other images drawn alike.

    It is the delete-d jackknife of Shao and Wu 1989, "A General Theory for Jackknife Variance Estimation": with a
    share s of both sets in each random subset, the root of the variance of the KID over subsets times s / (1 − s).
    (The plain standard deviation over subsets, which other programs print, is that of a KID of `subset_size` images.)
    s is subset_size / min(N, M), and ½ at most: subsets that are nearly the whole set say nothing about its scatter.
    """
    smaller = min(len(as_features(real_features)), len(as_features(fake_features)))
    share = min(0.5, subset_size / smaller)
    estimates = subset_estimates(real_features, fake_features, subsets=subsets, share=share, seed=seed)
    return float(np.sqrt(estimates.var(ddof=1) * share / (1.0 - share)))


def _sum_of_pairs(features: Floats) -> float:
    # Over pairs of different images only: the diagonal is what makes the other estimator biased.
    return _sum(features, features) - float(kernel(squared_norms(features), features.shape[1]).sum())


def _sum(left: Floats, right: Floats) -> float:
    dimensions = left.shape[1]
    return float(sum(kernel(products, dimensions).sum() for _, products in inner_products(left, right)))
