"""Pairs of features a tile at a time: each inner product is computed once, for every metric that needs it.

`scan` computes tiles of inner products in the precision of the features (float32 or float64) and hands them to
accumulators; sums are float64. Features are centred first, so that a distance is not a small difference of large numbers; the
kernel gets the inner product of the features themselves back by a term for each row and each column. What rounding leaves
open, a distance next to a radius, is computed again in float64 from the features.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.products import Floats

Features = npt.NDArray[np.floating]
Floats32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
Booleans = npt.NDArray[np.bool_]
Uses = Literal["kernel", "distances"]  # what an accumulator reads of a tile

TILE = 2048  # rows and columns: 16 MiB of float32; a product of this size runs at the peak
PAIRS_AT_ONCE = 4096  # pairs whose distances are computed in float64 at once
ROUNDING = 16  # machine epsilons: a squared distance is off by less than this share of the sum of the two squared norms
LARGEST = 1e6  # the cube of the kernel of larger features overflows float32


class Centred(NamedTuple):
    """Features [N, D] as given, less the centre [N, D], their squared norms [N] and the kernel's terms [N]."""

    features: Features
    values: Features
    norms: Features
    terms: Features


def centre(features: Features, at: Floats) -> Centred:
    """Return features [N, D] less `at` [D]; two sets centred at the same point can be scanned together.

    x·y / D + 1 is (x − c)·(y − c) / D plus a term of x and one of y. Raises ValueError for features above 1e6 in size.
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
    """A block of pairs: `kernel` (x·y / D + 1)³ and squared `distances`, [rows, columns], as far as they are wanted.

    In a scan of a set with itself only the upper tiles are computed (`mirrored`: the tile stands for its transpose too); a pair
    of an image with itself has kernel 0 and distance infinity.
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
        if on_diagonal:
            for array, value in ((kernel and self.kernel, 0.0), (distances and self.distances, np.inf)):
                if array is not False:
                    np.fill_diagonal(array, value)


class Accumulator(Protocol):
    """Takes the tiles of a scan, one after the other; `uses` is what it reads of a tile."""

    uses: Uses

    def add(self, tile: Tile) -> None:
        """Take a tile into account."""


def scan(left: Centred, right: Centred, *accumulators: Accumulator) -> None:
    """Hand every tile of pairs of `left` [N, D] and `right` [M, D] to the accumulators; of a set with itself the upper ones."""
    wanted = {accumulator.uses for accumulator in accumulators}
    for rows in _slices(len(left.values)):
        for columns in _slices(len(right.values)):
            if left is not right or columns.start >= rows.start:
                tile = Tile(left, right, rows, columns, kernel="kernel" in wanted, distances="distances" in wanted)
                for accumulator in accumulators:
                    accumulator.add(tile)


class Nearest:
    """The `count` nearest images of the other side, of each of `size` images on one side of a scan."""

    uses: Uses = "distances"

    def __init__(self, size: int, count: int, side: Literal["left", "right"]) -> None:
        self.distances = np.full((size, count), np.inf)
        self.indices = np.zeros((size, count), np.intp)
        self._side = side

    def add(self, tile: Tile) -> None:
        """Take a tile into account."""
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
    """Return for each row [N, D] the `count` nearest rows of `to_features` [M, D], nearest first, and their distances.

    Both are [N, count]; distances are Euclidean, in float64.
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
    """Return the squared distance of each pair (rows[i], columns[i]) in float64; exactly 0 of equal features."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        difference = np.subtract(left.features[rows[part]], right.features[columns[part]], dtype=np.float64)
        found[part] = np.einsum("nd,nd->n", difference, difference)
    return found


def inside(distances: Features, radii: Floats, slack: float) -> tuple[Booleans, Indices, Indices]:
    """Return which squared distances are below the squared radii, and the rows and columns of those too near to tell."""
    below = distances < radii
    near = np.abs(distances - radii.astype(distances.dtype)) <= slack
    places = np.flatnonzero(near)  # in one dimension, where it is ten times faster than nonzero in two
    return below, *np.divmod(places, distances.shape[1])


def slack_of(left_norms: Features, right_norms: Features) -> float:
    """Return how far a squared distance of a tile may be off by rounding."""
    return float(ROUNDING * np.finfo(left_norms.dtype).eps) * float(left_norms.max() + right_norms.max())


def squared_distances(products: Features, left_norms: Features, right_norms: Features) -> Features:
    """Return |x|² + |y|² − 2 x·y of inner products [rows, columns], which are overwritten."""
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
