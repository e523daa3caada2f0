"""Checks that features [N, D] can be scored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def as_features(features: npt.ArrayLike) -> Floats:
    """Return features as float64 [N, D]. Raises ValueError when they have another shape or are not finite."""
    array = np.asarray(features, np.float64)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"features must be finite and [N, D] with N, D ≥ 1; got {list(array.shape)}")
    return array


def check_features(features: npt.ArrayLike, kind: str) -> npt.NDArray[np.floating]:
    """Return features [N, D] as they are, or as float64 where they are not floats. Raises ValueError, naming the kind."""
    array = np.asarray(features)
    array = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{kind} features must be [N, D] with N, D ≥ 1; got {list(array.shape)}")
    if bad := int((~np.isfinite(array)).any(axis=1).sum()):
        raise ValueError(f"{bad} of {len(array)} {kind} images have features that are not finite")
    return array


def check_pair(
    real_features: npt.ArrayLike, fake_features: npt.ArrayLike
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
    """Return real [N, D] and fake [M, D] features, checked and of one precision. Raises ValueError where D differs."""
    real, fake = check_features(real_features, "real"), check_features(fake_features, "fake")
    check_widths(real, fake)
    common = np.result_type(real, fake)
    return real.astype(common, copy=False), fake.astype(common, copy=False)


def check_widths(real: npt.NDArray[np.floating], fake: npt.NDArray[np.floating]) -> None:
    """Raise ValueError when real [N, D] and fake [M, D] features differ in D."""
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"real images have {real.shape[1]} features, fake ones {fake.shape[1]}: use one extractor for both")


def check_enough(count: int, k: int, kind: str) -> None:
    """Raise ValueError when `count` images have no k-th neighbour, or no covariance."""
    if count <= max(k, 1):
        raise ValueError(f"k = {k} neighbours need at least {max(k + 1, 2)} {kind} images; got {count}")
