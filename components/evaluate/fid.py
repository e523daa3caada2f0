"""Fréchet distance between two sets of features (FID).

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", equation 6:
the squared 2-Wasserstein distance between two Gaussians with the means and covariances of real and fake features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.products import Floats, as_features


class Statistics(NamedTuple):
    """Mean, float64 [D], and unbiased covariance, float64 [D, D], of a set of features."""

    mean: Floats
    covariance: Floats


def features_to_statistics(features: npt.ArrayLike) -> Statistics:
    """Return mean and unbiased covariance of features [N, D] with N ≥ 2; sums are float64. Raises ValueError."""
    array = as_features(features)
    if len(array) < 2:
        raise ValueError("a covariance needs at least 2 rows of features")
    mean = array.mean(axis=0)
    centred = array - mean
    return Statistics(mean, centred.T @ centred / (len(array) - 1))


def statistics_to_metric(real: Statistics, fake: Statistics) -> float:
    """Return |μ_r − μ_f|² + tr(C_r) + tr(C_f) − 2 tr((C_r C_f)^½), in squared units of the features; never below zero.

    The eigenvalues of C_r C_f are those of the symmetric matrix C_r^½ C_f C_r^½, so the trace is a sum of roots of
    real, non-negative eigenvalues: no square root of a nonsymmetric matrix, no imaginary part to drop, and no offset
    where a covariance is singular.
    """
    root = _symmetric_root(real.covariance)
    eigenvalues = np.linalg.eigvalsh(root @ fake.covariance @ root)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    difference = real.mean - fake.mean
    distance = difference @ difference + np.trace(real.covariance) + np.trace(fake.covariance) - 2.0 * trace_of_root
    return max(0.0, float(distance))


def compute(real_features: npt.ArrayLike, fake_features: npt.ArrayLike) -> float:
    """Return the FID of fake features [M, D] against real features [N, D]; 0 is best. Raises ValueError."""
    return statistics_to_metric(features_to_statistics(real_features), features_to_statistics(fake_features))


def _symmetric_root(covariance: Floats) -> Floats:
    eigenvalues, vectors = np.linalg.eigh(covariance)
    root: Floats = (vectors * np.sqrt(np.maximum(eigenvalues, 0.0))) @ vectors.T
    return root
