"""Inner products of two sets of features, a block of rows at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BLOCK_BYTES = 4 * 1024 * 1024  # of one block of float64 inner products; measured: 0.5 and 32 MiB are half as fast


def as_features(features: npt.ArrayLike) -> Floats:
    """Return features as float64 [N, D]. Raises ValueError when they have another shape or are not finite."""
    array = np.asarray(features, np.float64)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"features must be finite and [N, D] with N, D ≥ 1; got {list(array.shape)}")
    return array


def check_features(features: npt.ArrayLike, kind: str) -> npt.NDArray[np.floating]:
    """Return features [N, D] as they are, or as float64 where they are no floats. Raises ValueError, naming the kind."""
    array = np.asarray(features)
    array = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{kind} features must be [N, D] with N, D ≥ 1; got {list(array.shape)}")
    if bad := int((~np.isfinite(array)).any(axis=1).sum()):
        raise ValueError(f"{bad} of {len(array)} {kind} images have features that are not finite")
    return array


def check_widths(real: npt.NDArray[np.floating], fake: npt.NDArray[np.floating]) -> None:
    """Raise ValueError when real [N, D] and fake [M, D] features differ in D."""
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"real images have {real.shape[1]} features, fake ones {fake.shape[1]}: use one extractor for both")


def check_enough(count: int, k: int, kind: str) -> None:
    """Raise ValueError when `count` images have no k-th neighbour, or no covariance."""
    if count <= max(k, 1):
        raise ValueError(f"k = {k} neighbours need at least {max(k + 1, 2)} {kind} images; got {count}")


def inner_products(left: Floats, right: Floats) -> Iterator[tuple[slice, Floats]]:
    """Yield (rows, left[rows] @ right.T) over all rows of `left` [N, D]; a block is float64 [rows, len(right)]."""
    height = max(1, BLOCK_BYTES // (8 * len(right)))
    for start in range(0, len(left), height):
        rows = slice(start, min(start + height, len(left)))
        yield rows, left[rows] @ right.T


def squared_norms(features: Floats) -> Floats:
    """Return the squared Euclidean norm of each row: float64 [N]."""
    norms: Floats = np.einsum("nd,nd->n", features, features)
    return norms


def squared_distances(products: Floats, left_norms: Floats, right_norms: Floats) -> Floats:
    """Return |x|² + |y|² − 2 x·y for a block of inner products, float64 [rows, columns], never below zero."""
    distances = products * -2.0
    distances += left_norms[:, None]
    distances += right_norms[None, :]
    return np.maximum(distances, 0.0, out=distances)


def nearest_distances(from_features: Floats, to_features: Floats) -> Floats:
    """Return the Euclidean distance from each row [N, D] to the nearest row of `to_features` [M, D]: float64 [N]."""
    from_norms, to_norms = squared_norms(from_features), squared_norms(to_features)
    nearest = np.empty(len(from_features))
    for rows, products in inner_products(from_features, to_features):
        nearest[rows] = squared_distances(products, from_norms[rows], to_norms).min(axis=1)
    return np.sqrt(nearest)


def nearest_indices(from_features: Floats, to_features: Floats, count: int) -> npt.NDArray[np.intp]:
    """Return for each row of `from_features` the `count` nearest rows of `to_features`, nearest first: [N, count]."""
    from_norms, to_norms = squared_norms(from_features), squared_norms(to_features)
    nearest = np.empty((len(from_features), count), np.intp)
    for rows, products in inner_products(from_features, to_features):
        distances = squared_distances(products, from_norms[rows], to_norms)
        nearest[rows] = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return nearest
