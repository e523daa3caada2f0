"""Checks that features [N, D] or images [N, H, W, C] can be scored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def as_features(features: npt.ArrayLike) -> Floats:
    """Return features as float64 [N, D]. Raises ValueError if they have another shape or are not finite."""
    array = np.asarray(features, np.float64)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"features must be finite and [N, D] with N, D ≥ 1; got {list(array.shape)}")
    return array


def check_features(features: npt.ArrayLike, kind: str) -> npt.NDArray[np.floating]:
    """Return features [N, D], as float64 if they are not floats. Raises ValueError, which names the kind."""
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
    """Return real [N, D] and fake [M, D] features in the same precision. Raises ValueError if they cannot be compared."""
    real, fake = check_features(real_features, "real"), check_features(fake_features, "fake")
    check_widths(real, fake)
    common = np.result_type(real, fake)
    return real.astype(common, copy=False), fake.astype(common, copy=False)


def check_widths(real: npt.NDArray[np.floating], fake: npt.NDArray[np.floating]) -> None:
    """Raise ValueError if real [N, D] and fake [M, D] features differ in D."""
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"real images have {real.shape[1]} features, fake ones {fake.shape[1]}: use one extractor for both")


def check_enough(count: int, k: int, kind: str) -> None:
    """Raise ValueError if `count` images are too few for a k-th neighbour or a covariance."""
    if count <= max(k, 1):
        raise ValueError(f"k = {k} neighbours need at least {max(k + 1, 2)} {kind} images; got {count}")


def check_images(images: npt.ArrayLike, smallest: int) -> npt.NDArray[np.uint8]:
    """Return images uint8 [N, H, W, C] with C = 1 or 3, at least `smallest` pixels wide and high. Raises ValueError."""
    array = np.asarray(images)
    if array.ndim != 4 or array.dtype != np.uint8 or not len(array) or array.shape[3] not in (1, 3):
        raise ValueError(f"images must be uint8 [N, H, W, 1 or 3] with N ≥ 1; got {array.dtype} {list(array.shape)}")
    if min(array.shape[1:3]) < smallest:
        raise ValueError(f"images must be at least {smallest}×{smallest}; got {array.shape[1]}×{array.shape[2]}")
    return array
