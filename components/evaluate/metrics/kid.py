"""Kernel distance between two sets of features (KID).

Bińkowski et al. 2018, "Demystifying MMD GANs", section 4: the squared maximum mean discrepancy with the kernel
k(x, y) = (x·y / D + 1)³, by the unbiased estimator of Gretton et al. 2012, "A Kernel Two-Sample Test", equation 3. It
scatters around 0, so may be below 0, when real and fake features have the same distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.products import Floats, as_features, check_widths, inner_products, squared_norms


class KernelSums(NamedTuple):
    """Sums of the kernel over pairs of two different images: all that KID and its standard error need.

    real_pairs: over all ordered pairs of real images; fake_rows [M]: for each fake image over all other fake ones;
    mixed_rows [M]: for each fake image over all `real_count` real ones.
    """

    real_pairs: float
    fake_rows: Floats
    mixed_rows: Floats
    real_count: int


def kernel(products: Floats, dimensions: int) -> Floats:
    """Return (x·y / D + 1)³ for inner products of any shape."""
    base = products / dimensions
    base += 1.0
    cube = base * base
    cube *= base
    return cube


def features_to_statistics(real_features: npt.ArrayLike, fake_features: npt.ArrayLike) -> KernelSums:
    """Return the sums of the kernel for features [N, D] (real) and [M, D] (fake). Raises ValueError."""
    real, fake = as_features(real_features), as_features(fake_features)
    check_widths(real, fake)
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"KID needs at least 2 images of each kind; got {len(real)} real and {len(fake)} fake")
    return KernelSums(float(_sums_over_others(real).sum()), _sums_over_others(fake), _row_sums(fake, real), len(real))


def statistics_to_metric(sums: KernelSums) -> float:
    """Return the unbiased squared MMD: the mean over pairs of real, plus that of fake, less twice that of mixed."""
    real, fake = sums.real_count, len(sums.fake_rows)
    within = sums.real_pairs / (real * (real - 1)) + float(sums.fake_rows.sum()) / (fake * (fake - 1))
    return within - 2.0 * float(sums.mixed_rows.sum()) / (real * fake)


def statistics_to_standard_error(
    sums: KernelSums, fake_features: npt.ArrayLike, *, subsets: int, subset_size: int, seed: int
) -> float:
    """Return the standard error of KID over the samples: how far it would scatter with other samples of the generator.

    The real images are held fixed, because scores are compared only when they are of the same real images. It is the
    delete-d jackknife of Shao and Wu 1989, "A General Theory for Jackknife Variance Estimation": each of `subsets` random
    subsets of d = subset_size samples (M / 2 at most) is left out in turn, and the standard error is the standard
    deviation of the KID of the remaining ones, times √((M − d) / d). `seed` fixes the subsets. (The ± that other programs
    print is the plain standard deviation over small subsets of both sets: a multiple of this.)
    """
    fake = as_features(fake_features)
    left_out = rows_left_out(len(fake), subsets=subsets, subset_size=subset_size, seed=seed)
    return standard_error(sums, left_out, [float(_sums_over_others(fake[rows]).sum()) for rows in left_out])


def rows_left_out(samples: int, *, subsets: int, subset_size: int, seed: int) -> list[npt.NDArray[np.intp]]:
    """Return the samples that each subset leaves out: `subset_size` of them, half at most."""
    generator = np.random.default_rng(seed)
    return [generator.choice(samples, min(subset_size, samples // 2), replace=False) for _ in range(subsets)]


def standard_error(sums: KernelSums, left_out: Sequence[npt.NDArray[np.intp]], pairs_left_out: Sequence[float]) -> float:
    """Return what `statistics_to_standard_error` does, from the kernel's sum over the pairs of samples left out together."""
    samples, size = len(sums.fake_rows), len(left_out[0])
    remaining = samples - size
    estimates = np.empty(len(left_out))
    for index, (rows, pairs) in enumerate(zip(left_out, pairs_left_out, strict=True)):
        # Each pair of remaining images counts twice in all rows; pairs with one image left out are in the rows of both.
        kept = np.delete(sums.fake_rows, rows).sum() - (sums.fake_rows[rows].sum() - pairs)
        within = kept / (remaining * (remaining - 1))
        estimates[index] = within - 2.0 * np.delete(sums.mixed_rows, rows).sum() / (sums.real_count * remaining)
    return float(estimates.std(ddof=1) * np.sqrt(remaining / size))


def compute(real_features: npt.ArrayLike, fake_features: npt.ArrayLike) -> float:
    """Return the KID of fake features [M, D] against real features [N, D] over all images; 0 is best."""
    return statistics_to_metric(features_to_statistics(real_features, fake_features))


def _sums_over_others(features: Floats) -> Floats:
    # Over pairs of different images only: the diagonal is what makes the other estimator biased.
    return _row_sums(features, features) - kernel(squared_norms(features), features.shape[1])


def _row_sums(left: Floats, right: Floats) -> Floats:
    sums = np.empty(len(left))
    for rows, products in inner_products(left, right):
        sums[rows] = kernel(products, left.shape[1]).sum(axis=1)
    return sums
