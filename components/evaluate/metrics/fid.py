"""Fréchet distance between two sets of features (FID).

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", equation 6:
the squared 2-Wasserstein distance between two Gaussians with the means and covariances of real and fake features.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.checks import Floats, check_features, check_widths

ROWS_AT_ONCE = 2048  # rows converted to float64 at once


class Statistics(NamedTuple):
    """Mean, float64 [D], and unbiased covariance, float64 [D, D], of a set of features."""

    mean: Floats
    covariance: Floats


def features_to_statistics(features: npt.ArrayLike) -> Statistics:
    """Return mean and unbiased covariance of features [N, D] with N ≥ 2; sums are float64. Raises ValueError."""
    array = check_features(features, "image")
    if len(array) < 2:
        raise ValueError(f"a covariance needs at least 2 images; got {len(array)}")
    mean = array.mean(axis=0, dtype=np.float64)
    sums = np.zeros((array.shape[1], array.shape[1]))
    for start in range(0, len(array), ROWS_AT_ONCE):
        centred = array[start : start + ROWS_AT_ONCE] - mean
        sums += centred.T @ centred
    return Statistics(mean, sums / (len(array) - 1))


def statistics_to_metric(real: Statistics, fake: Statistics, real_root: Floats | None = None) -> float:
    """Return |μ_r − μ_f|² + tr(C_r) + tr(C_f) − 2 tr((C_r C_f)^½), in squared units of the features; never below zero.

    With C_r = R Rᵀ, C_r C_f has the eigenvalues of the symmetric matrix Rᵀ C_f R, so the last trace is the sum of the roots of
    real, non-negative eigenvalues. No root of a nonsymmetric matrix is needed, there is no imaginary part to drop, and no
    offset for singular covariances. `real_root` is R, if the caller has cached it.
    """
    factor = root(real.covariance) if real_root is None else real_root
    eigenvalues = np.linalg.eigvalsh(factor.T @ fake.covariance @ factor)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    difference = real.mean - fake.mean
    distance = difference @ difference + np.trace(real.covariance) + np.trace(fake.covariance) - 2.0 * trace_of_root
    return max(0.0, float(distance))


def compute(real_features: npt.ArrayLike, fake_features: npt.ArrayLike) -> float:
    """Return the FID of fake features [M, D] against real features [N, D]; 0 is best. Raises ValueError."""
    check_widths(check_features(real_features, "real"), check_features(fake_features, "fake"))
    return statistics_to_metric(features_to_statistics(real_features), features_to_statistics(fake_features))


def digest(statistics: Statistics) -> str:
    """Return the hex SHA-256 of mean and covariance as float64."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in statistics)).hexdigest()


def root(covariance: Floats) -> Floats:
    """Return R with R Rᵀ = C for a covariance C [D, D]: Cholesky's, or C^½ by eigenvalues if C is singular."""
    try:
        factor: Floats = np.linalg.cholesky(covariance).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        eigenvalues, vectors = np.linalg.eigh(covariance)
        factor = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))
    return factor
