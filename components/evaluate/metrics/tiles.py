"""Tiles of inner products between features: each is computed once for all metrics that need it.

`scan` computes the tiles in the precision of the features (float32 or float64) and passes them to accumulators, whose sums are
float64. Features are centred first, so that a distance is not a small difference of large numbers. A term for each row and each
column turns inner products of centred features into those of the original ones, for the kernel. Distances that rounding
cannot tell from a radius are computed again in float64.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.checks import Floats

Features = npt.NDArray[np.floating]
Floats32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
Booleans = npt.NDArray[np.bool_]
Uses = Literal["kernel", "distances"]  # the part of a tile that an accumulator reads

TILE = 1024  # rows and columns: 4 MiB of float32, large enough for the full speed of matrix products
PAIRS_AT_ONCE = 4096  # pairs whose exact distances are computed at once
ROUNDING = 16  # bound for the error of a squared distance, in machine epsilons times the sum of the two squared norms
LARGEST = 1e6  # for larger features, the cube in the kernel overflows float32


class Centred(NamedTuple):
    """Features [N, D]; the same minus the centre [N, D]; their squared norms [N]; the terms of the kernel [N]."""

    features: Features
    values: Features
    norms: Features
    terms: Features


def centre(features: Features, at: Floats) -> Centred:
    """Return features [N, D] minus `at` [D]; two sets must have the same centre to be scanned together.

    x·y / D + 1 is (x − c)·(y − c) / D plus a term for x and one for y. Raises ValueError if a feature exceeds 1e6.
    """
    if (largest := float(np.abs(features).max())) > LARGEST:
        raise ValueError(f"features reach {largest:.3g}; scale them to below {LARGEST:g}")
    middle = at.astype(features.dtype)
    values = features - middle
    wide = middle.astype(np.float64)
    terms = np.concatenate([values[rows].astype(np.float64) @ wide for rows in _slices(len(values))])
    terms = (terms + 0.5 * (wide @ wide)) / features.shape[1] + 0.5
    norms = np.einsum("nd,nd->n", values, values, dtype=np.float64, casting="same_kind")
    return Centred(features, values, norms.astype(features.dtype), terms.astype(features.dtype))


class Tile:
    """A block of pairs: `kernel` (x·y / D + 1)³ and squared `distances`, both [rows, columns], if they are needed.

    A scan of a set with itself computes only the upper tiles; `mirrored` means that a tile also represents its transpose. A
    pair of an image with itself has kernel 0 and distance infinity.
    """

    def __init__(self, left: Centred, right: Centred, rows: slice, columns: slice, *, kernel: bool, distances: bool) -> None:
        self.left, self.right, self.rows, self.columns = left, right, rows, columns
        on_diagonal = left is right and rows == columns
        self.mirrored = left is right and not on_diagonal
        products = left.values[rows] @ right.values[columns].T
        if kernel:
            self.kernel = _kernel(products, left.terms[rows], right.terms[columns], left.values.shape[1])
        if distances:
            self.distances = squared_distances(products, left.norms[rows], right.norms[columns])
        if on_diagonal and kernel:
            np.fill_diagonal(self.kernel, 0.0)
        if on_diagonal and distances:
            np.fill_diagonal(self.distances, np.inf)


class Accumulator(Protocol):
    """Receives the tiles of a scan one by one; `uses` is the part of a tile that it reads."""

    uses: Uses

    def add(self, tile: Tile) -> None:
        """Add a tile."""


def scan(left: Centred, right: Centred, *accumulators: Accumulator) -> None:
    """Pass all tiles of `left` [N, D] and `right` [M, D] to the accumulators; only the upper ones if both are the same set."""
    wanted = {accumulator.uses for accumulator in accumulators}
    for rows in _slices(len(left.values)):
        for columns in _slices(len(right.values)):
            if left is not right or columns.start >= rows.start:
                tile = Tile(left, right, rows, columns, kernel="kernel" in wanted, distances="distances" in wanted)
                for accumulator in accumulators:
                    accumulator.add(tile)


class Nearest:
    """Finds, for each of the `size` images on one side of a scan, the `count` nearest images on the other side."""

    uses: Uses = "distances"

    def __init__(self, size: int, count: int, side: Literal["left", "right"]) -> None:
        self.distances = np.full((size, count), np.inf)
        self.indices = np.zeros((size, count), np.intp)
        self._side = side

    def add(self, tile: Tile) -> None:
        """Add a tile."""
        if self._side == "left":
            self._merge(tile.rows, tile.columns, tile.distances)
        if self._side == "right" or tile.mirrored:
            self._merge(tile.columns, tile.rows, np.ascontiguousarray(tile.distances.T))

    def _merge(self, rows: slice, columns: slice, distances: Features) -> None:
        count = self.distances.shape[1]
        picked = _smallest(distances, count)
        values = np.concatenate([self.distances[rows], np.take_along_axis(distances, picked, axis=1)], axis=1)
        indices = np.concatenate([self.indices[rows], picked + columns.start], axis=1)
        best = _smallest(values, count)
        self.distances[rows] = np.take_along_axis(values, best, axis=1)
        self.indices[rows] = np.take_along_axis(indices, best, axis=1)


def nearest_images(from_features: Features, to_features: Features, count: int = 1) -> tuple[Indices, Floats]:
    """Return the `count` nearest rows of `to_features` [M, D] for each row [N, D], nearest first, and their distances.

    Both results are [N, count]; distances are Euclidean, in float64.
    """
    middle = to_features.mean(axis=0, dtype=np.float64)
    left, right = centre(from_features, middle), centre(to_features, middle)
    nearest = Nearest(len(left.values), min(count, len(right.values)), "left")
    scan(left, right, nearest)
    rows = np.repeat(np.arange(len(left.values)), nearest.indices.shape[1])
    exact = exact_distances(left, right, rows, nearest.indices.ravel()).reshape(nearest.indices.shape)
    order = np.argsort(exact, axis=1, kind="stable")
    return np.take_along_axis(nearest.indices, order, axis=1), np.sqrt(np.take_along_axis(exact, order, axis=1))


def exact_distances(left: Centred, right: Centred, rows: Indices, columns: Indices) -> Floats:
    """Return the squared distance of each pair (rows[i], columns[i]) in float64; exactly 0 for equal features."""
    squared = np.empty(len(rows))
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        difference = np.subtract(left.features[rows[part]], right.features[columns[part]], dtype=np.float64)
        squared[part] = np.einsum("nd,nd->n", difference, difference)
    return squared


def inside(distances: Features, radii: Floats, slack: float) -> tuple[Indices, Indices, Indices]:
    """Return rows and columns of the squared distances that may be below the squared radii, and which are within `slack`.

    `radii` is [rows, 1] or [1, columns]. The third result: positions, in the first two, of pairs that rounding cannot tell.
    """
    rounded = radii.astype(distances.dtype)
    positions = np.flatnonzero(distances <= rounded + slack)  # ten times as fast as nonzero in two dimensions
    rows, columns = np.divmod(positions, distances.shape[1])
    limits = rounded[rows, 0] if rounded.shape[1] == 1 else rounded[0, columns]
    return rows, columns, np.flatnonzero(distances.ravel()[positions] >= limits - slack)


def slack_of(left_norms: Features, right_norms: Features) -> float:
    """Return a bound for the rounding error of squared distances in a tile."""
    return float(ROUNDING * np.finfo(left_norms.dtype).eps) * float(left_norms.max() + right_norms.max())


def squared_distances(products: Features, left_norms: Features, right_norms: Features) -> Features:
    """Return |x|² + |y|² − 2 x·y for inner products [rows, columns], which are overwritten."""
    products *= -2.0
    products += left_norms[:, None]
    products += right_norms[None, :]
    return products


def _kernel(products: Features, left_terms: Features, right_terms: Features, dimensions: int) -> Features:
    base = products * (1.0 / dimensions)
    base += left_terms[:, None]
    base += right_terms[None, :]
    cube: Features = base * base
    cube *= base
    return cube


def _smallest(values: Features, count: int) -> Indices:
    if count >= values.shape[1]:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    picked: Indices = values.argmin(axis=1)[:, None] if count == 1 else np.argpartition(values, count - 1, axis=1)[:, :count]
    return picked


def _slices(length: int) -> list[slice]:
    return [slice(start, min(start + TILE, length)) for start in range(0, length, TILE)]
