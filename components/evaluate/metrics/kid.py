"""Kernel distance between two sets of features (KID).

Bińkowski et al. 2018, "Demystifying MMD GANs", section 4: the squared maximum mean discrepancy with the kernel
k(x, y) = (x·y / D + 1)³, by the unbiased estimator of Gretton et al. 2012, "A Kernel Two-Sample Test", equation 3. If real
and fake features have the same distribution, it scatters around 0, so it may be negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.checks import Floats, check_pair
from components.evaluate.metrics.tiles import Features, Tile, Uses, centre, scan


class KernelSums(NamedTuple):
    """Sums of the kernel over pairs of different images, from which KID and its standard error are computed.

    real_pairs: over all ordered pairs of real images; fake_rows [M]: for each fake image, over all other fake images;
    mixed_rows [M]: for each fake image, over all `real_count` real images.
    """

    real_pairs: float
    fake_rows: Floats
    mixed_rows: Floats
    real_count: int


class Within:
    """Sums the kernel over pairs of different images in one set of N images.

    `rows` [N]: for each image, over all others; `drawn` [B]: Σᵢⱼ uᵢ k(xᵢ, xⱼ) uⱼ, i ≠ j, for each row u of `weights` [B, N].
    """

    uses: Uses = "kernel"

    def __init__(self, size: int, weights: Floats | None = None) -> None:
        self._weights = np.empty((0, size)) if weights is None else weights
        self.rows, self.drawn = np.zeros(size), np.zeros(len(self._weights))

    def add(self, tile: Tile) -> None:
        """Add a tile."""
        self.rows[tile.rows] += tile.kernel.sum(axis=1, dtype=np.float64)
        drawn = _quadratic(self._weights[:, tile.rows], tile.kernel, self._weights[:, tile.columns])
        self.drawn += 2.0 * drawn if tile.mirrored else drawn
        if tile.mirrored:
            self.rows[tile.columns] += tile.kernel.sum(axis=0, dtype=np.float64)


class Between:
    """Sums the kernel over pairs of N real (left) and M fake (right) images.

    `rows` [M]: for each fake image, over all real ones; `drawn` [B]: Σᵢⱼ uᵢ k(xᵢ, yⱼ) vⱼ for rows u of
    `of_real` [B, N] and v of `of_fake` [B, M].
    """

    uses: Uses = "kernel"

    def __init__(self, fake_count: int, of_real: Floats | None = None, of_fake: Floats | None = None) -> None:
        self._of_real, self._of_fake = of_real, of_fake
        self.rows, self.drawn = np.zeros(fake_count), np.zeros(0 if of_real is None else len(of_real))

    def add(self, tile: Tile) -> None:
        """Add a tile."""
        self.rows[tile.columns] += tile.kernel.sum(axis=0, dtype=np.float64)
        if self._of_real is not None and self._of_fake is not None:
            self.drawn += _quadratic(self._of_real[:, tile.rows], tile.kernel, self._of_fake[:, tile.columns])


def statistics_to_metric(sums: KernelSums) -> float:
    """Return the unbiased squared MMD: the mean over real pairs plus that over fake pairs minus twice that over mixed pairs."""
    real, fake = sums.real_count, len(sums.fake_rows)
    within = sums.real_pairs / (real * (real - 1)) + float(sums.fake_rows.sum()) / (fake * (fake - 1))
    return within - 2.0 * float(sums.mixed_rows.sum()) / (real * fake)


def rows_left_out(samples: int, *, subsets: int, subset_size: int, seed: int) -> list[npt.NDArray[np.intp]]:
    """Return the indices of the samples that each subset leaves out: `subset_size` of them, at most half."""
    generator = np.random.default_rng(seed)
    return [generator.choice(samples, min(subset_size, samples // 2), replace=False) for _ in range(subsets)]


def indicators(left_out: Sequence[npt.NDArray[np.intp]], samples: int) -> Floats:
    """Return the subsets as weights, float64 [S, M]: 1 for samples that are left out, else 0."""
    weights = np.zeros((len(left_out), samples))
    for row, subset in zip(weights, left_out, strict=True):
        row[subset] = 1.0
    return weights


def standard_error(sums: KernelSums, left_out: Sequence[npt.NDArray[np.intp]], pairs_left_out: Sequence[float]) -> float:
    """Return the standard error of KID: how much it would vary with other samples of the same generator.

    The real images are fixed, because scores are only compared if they have the same real images. This is the delete-d
    jackknife of Shao and Wu 1989, "A General Theory for Jackknife Variance Estimation": each subset of d samples is left out in
    turn; the standard error is the standard deviation of the KID of the remaining samples, times √((M − d) / d).
    `pairs_left_out` are the sums of the kernel over pairs within each subset. (Other programs print the standard deviation
    over small subsets of both sets as ±, a multiple of this.)
    """
    samples, size = len(sums.fake_rows), len(left_out[0])
    remaining = samples - size
    estimates = np.empty(len(left_out))
    for index, (rows, pairs) in enumerate(zip(left_out, pairs_left_out, strict=True)):
        # The rows of remaining images include pairs with images that are left out; these pairs are subtracted.
        kept = np.delete(sums.fake_rows, rows).sum() - (sums.fake_rows[rows].sum() - pairs)
        within = kept / (remaining * (remaining - 1))
        estimates[index] = within - 2.0 * np.delete(sums.mixed_rows, rows).sum() / (sums.real_count * remaining)
    return float(estimates.std(ddof=1) * np.sqrt(remaining / size))


def compute(real_features: npt.ArrayLike, fake_features: npt.ArrayLike) -> float:
    """Return the KID of fake features [M, D] against real features [N, D] over all images; 0 is best. Raises ValueError."""
    return statistics_to_metric(_sums(*check_pair(real_features, fake_features))[0])


def compute_with_error(
    real_features: npt.ArrayLike, fake_features: npt.ArrayLike, *, subsets: int, subset_size: int, seed: int
) -> tuple[float, float]:
    """Return KID and its standard error, with `subsets` random subsets of the samples from `seed`. Raises ValueError."""
    real, fake = check_pair(real_features, fake_features)
    left_out = rows_left_out(len(fake), subsets=subsets, subset_size=subset_size, seed=seed)
    sums, drawn = _sums(real, fake, indicators(left_out, len(fake)))
    return statistics_to_metric(sums), standard_error(sums, left_out, drawn.tolist())


def _sums(real: Features, fake: Features, of_fake: Floats | None = None) -> tuple[KernelSums, Floats]:
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"KID needs at least 2 images of each kind; got {len(real)} real and {len(fake)} fake")
    middle = real.mean(axis=0, dtype=np.float64)
    left, right = centre(real, middle), centre(fake, middle)
    within_real, within_fake, between = Within(len(real)), Within(len(fake), of_fake), Between(len(fake))
    scan(left, left, within_real)
    scan(right, right, within_fake)
    scan(left, right, between)
    return KernelSums(float(within_real.rows.sum()), within_fake.rows, between.rows, len(real)), within_fake.drawn


def _quadratic(of_rows: Floats, kernel: Features, of_columns: Floats) -> Floats:
    if not len(of_rows):
        return np.zeros(0)
    weighted = of_rows.astype(kernel.dtype) @ kernel
    sums: Floats = np.einsum("bn,bn->b", weighted, of_columns, dtype=np.float64, casting="same_kind")
    return sums
