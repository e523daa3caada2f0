"""Near duplicates: images whose perceptual hashes differ in few bits (optional; equal pixels are found in beam/shards.py).

Two 64-bit hashes that differ in at most k bits agree in at least one of k + 1 bands of bits (multi-index hashing, Norouzi,
Punjani and Fleet 2012), so only images with an equal band are compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

NEAR_DUPLICATE = "looks alike"  # in duplicates.jsonl: changing it changes the digests of datasets
BITS = 64
PAIRS_AT_ONCE = 1 << 20

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]


class NearDuplicates(NamedTuple):
    """Positions of the images to drop, and for each the position of the image kept instead, both int64 [N]."""

    dropped: Positions
    kept: Positions


def perceptual_hash(image: Image.Image) -> int:
    """Return a 64-bit hash that differs in few bits for similar images.

    Difference hash (N. Krawetz, "Kind of like that", 2013): in 8 rows of 9 grey areas, is an area brighter than the next?
    """
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def find_near_duplicates(hashes: Hashes, max_bits: int) -> NearDuplicates:
    """Return the images to drop so that no two of the others differ in at most `max_bits` bits.

    hashes: uint64 [N], in the order of preference. An image is dropped if it is similar to an earlier one that is kept, so
    the result depends on the order alone. Needs about 50 bytes of memory an image.
    """
    earlier, later = _similar_pairs(hashes, max_bits)
    order = np.lexsort((earlier, later))
    gone = np.zeros(len(hashes), bool)
    dropped, kept = [], []
    for first, second in zip(earlier[order].tolist(), later[order].tolist(), strict=True):
        if not gone[first] and not gone[second]:
            gone[second] = True
            dropped.append(second)
            kept.append(first)
    return NearDuplicates(np.array(dropped, np.int64), np.array(kept, np.int64))


def _similar_pairs(hashes: Hashes, max_bits: int) -> tuple[Positions, Positions]:
    """Return all pairs of similar images, the earlier one first."""
    found = [np.empty((2, 0), np.int64)]
    for low, high in bands(max_bits):
        values = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(values, kind="stable")
        for first, second in _equal_pairs(values[order]):
            a, b = order[first], order[second]
            close = np.bitwise_count(hashes[a] ^ hashes[b]) <= max_bits
            found.append(np.stack([np.minimum(a, b)[close], np.maximum(a, b)[close]]))
    pairs = np.unique(np.concatenate(found, axis=1), axis=1)
    return pairs[0], pairs[1]


def bands(max_bits: int) -> list[tuple[int, int]]:
    """Return the bands that a hash is cut into, as (first bit, end): one more than the bits that may differ."""
    ends = np.linspace(0, BITS, max_bits + 2).round().astype(int).tolist()
    return list(itertools.pairwise(ends))


def _equal_pairs(ordered: Hashes) -> Iterator[tuple[Positions, Positions]]:
    """Yield the pairs of positions with equal values in a sorted array: those 1 apart, then 2, and so on."""
    positions = np.arange(len(ordered))
    distance = 1
    while len(positions):
        positions = positions[positions + distance < len(ordered)]
        positions = positions[ordered[positions] == ordered[positions + distance]]
        for start in range(0, len(positions), PAIRS_AT_ONCE):
            part = positions[start : start + PAIRS_AT_ONCE]
            yield part, part + distance
        distance += 1
