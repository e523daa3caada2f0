"""Inner products of two sets of features in float32, a tile at a time, and what is decided from them exactly.

Features are centred first, so that a distance is no small difference of large numbers; the kernel of KID gets its
inner product of the features themselves back by a term for each row and one for each column. What float32 leaves open,
a distance next to a radius, is computed again in float64 from the features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.products import Floats

Floats32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
Booleans = npt.NDArray[np.bool_]

TILE = 2048  # rows and columns: 16 MiB of float32; a product of this size runs at the peak
PAIRS_AT_ONCE = 4096  # of those that are computed in float64
ROUNDING = 2e-6  # a squared distance in float32 is off by less than this share of the sum of the two squared norms
LARGEST = 1e6  # the cube of the kernel of larger features leaves float32


class Centred(NamedTuple):
    """Features [N, D] as given, less the centre [N, D] float32, their squared norms [N] and the kernel's terms [N]."""

    features: npt.NDArray[np.floating]
    values: Floats32
    norms: Floats32
    terms: Floats32


def centre(features: npt.NDArray[np.floating], at: Floats) -> Centred:
    """Return features [N, D] less `at` [D]; with equal `at`, kernel and distances of two sets go together.

    x·y / D + 1 is (x − c)·(y − c) / D plus a term of x and one of y. Raises ValueError for features above 1e6 in size.
    """
    if (largest := float(np.abs(features).max())) > LARGEST:
        raise ValueError(f"features reach {largest:.3g}; scale them to below {LARGEST:g}")
    middle = at.astype(np.float32)
    values = np.subtract(features, middle, dtype=np.result_type(features, np.float32)).astype(np.float32, copy=False)
    wide = middle.astype(np.float64)
    terms = (values @ middle).astype(np.float64) if not wide.any() else _exact_dot(values, wide)
    terms = (terms + 0.5 * (wide @ wide)) / features.shape[1] + 0.5
    norms = np.einsum("nd,nd->n", values, values, dtype=np.float64, casting="same_kind")
    return Centred(features, values, norms.astype(np.float32), terms.astype(np.float32))


def tiles(left: Centred, right: Centred) -> Iterator[tuple[slice, slice, Floats32]]:
    """Yield (rows, columns, inner products of the centred features); of one set with itself the upper tiles only."""
    for rows in _slices(len(left.values)):
        for columns in _slices(len(right.values)):
            if left is not right or columns.start >= rows.start:
                yield rows, columns, left.values[rows] @ right.values[columns].T


def kernel_of(products: Floats32, left_terms: Floats32, right_terms: Floats32, dimensions: int) -> Floats32:
    """Return (x·y / D + 1)³ of a tile."""
    base = products * np.float32(1.0 / dimensions)
    base += left_terms[:, None]
    base += right_terms[None, :]
    cube = base * base
    cube *= base
    return cube


def distances_of(products: Floats32, left_norms: Floats32, right_norms: Floats32) -> Floats32:
    """Return the squared distances of a tile; `products` are overwritten."""
    products *= np.float32(-2.0)
    products += left_norms[:, None]
    products += right_norms[None, :]
    return products


def exact_distances(left: Centred, right: Centred, rows: Indices, columns: Indices) -> Floats:
    """Return the squared distance of each pair (rows[i], columns[i]) in float64; exactly 0 of equal features."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        difference = np.subtract(left.features[rows[part]], right.features[columns[part]], dtype=np.float64)
        found[part] = np.einsum("nd,nd->n", difference, difference)
    return found


def inside(distances: Floats32, radii: Floats, slack: float) -> tuple[Booleans, Indices, Indices]:
    """Return which squared distances are below the squared radii, and the rows and columns of those too near to say."""
    below = distances < radii
    near = np.abs(distances - radii.astype(np.float32)) <= slack
    places = np.flatnonzero(near)  # of one dimension, where it is ten times as quick as nonzero of two
    return below, *np.divmod(places, distances.shape[1])


def slack_of(left_norms: Floats32, right_norms: Floats32) -> float:
    """Return how far a squared distance of a tile may be off in float32."""
    return ROUNDING * float(left_norms.max() + right_norms.max())


class Nearest:
    """The `count` nearest images of each of `size` images, found tile by tile."""

    def __init__(self, size: int, count: int) -> None:
        self.distances = np.full((size, count), np.inf, np.float32)
        self.indices = np.zeros((size, count), np.intp)

    def look_at(self, rows: slice, columns: slice, distances: Floats32) -> None:
        """Take a tile into account: squared distances [rows, columns]."""
        count = self.distances.shape[1]
        picked = _smallest(distances, count)
        values = np.concatenate([self.distances[rows], np.take_along_axis(distances, picked, axis=1)], axis=1)
        indices = np.concatenate([self.indices[rows], picked + columns.start], axis=1)
        best = _smallest(values, count)
        self.distances[rows] = np.take_along_axis(values, best, axis=1)
        self.indices[rows] = np.take_along_axis(indices, best, axis=1)


def _smallest(values: Floats32, count: int) -> Indices:
    if count >= values.shape[1]:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    picked: Indices = values.argmin(axis=1)[:, None] if count == 1 else np.argpartition(values, count - 1, axis=1)[:, :count]
    return picked


def _slices(length: int) -> list[slice]:
    return [slice(start, min(start + TILE, length)) for start in range(0, length, TILE)]


def _exact_dot(values: Floats32, vector: Floats) -> Floats:
    return np.concatenate([values[rows].astype(np.float64) @ vector for rows in _slices(len(values))])
