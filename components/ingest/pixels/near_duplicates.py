"""Images that look alike: perceptual hashes that differ in few bits (optional; equal pixels are found elsewhere).

Two 64-bit hashes that differ in at most k bits agree in at least one of k + 1 bands of them (the pigeonhole principle behind
multi-index hashing, Norouzi, Punjani and Fleet 2012), so only images that share a band are compared, bit by bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LOOKS_ALIKE = "looks alike"
BITS = 64
PAIRS_AT_ONCE = 1 << 20

Looks = npt.NDArray[np.uint64]
Order = npt.NDArray[np.int64]


class Alike(NamedTuple):
    """Images to drop, and for each the image that is kept instead: positions, both int64 [N]."""

    dropped: Order
    kept: Order


def find_alike(looks: Looks, most_bits: int) -> Alike:
    """Return which images to drop so that no two of the kept differ in at most `most_bits` bits where one can be spared.

    looks: uint64 [N], the most worth keeping first. An image goes when it is alike to one before it that stays; so the
    outcome depends on the order alone. Memory: some 50 bytes an image.
    """
    earlier, later = _pairs(looks, most_bits)
    order = np.lexsort((earlier, later))
    gone = np.zeros(len(looks), bool)
    dropped, kept = [], []
    for first, second in zip(earlier[order].tolist(), later[order].tolist(), strict=True):
        if not gone[first] and not gone[second]:
            gone[second] = True
            dropped.append(second)
            kept.append(first)
    return Alike(np.array(dropped, np.int64), np.array(kept, np.int64))


def _pairs(looks: Looks, most_bits: int) -> tuple[Order, Order]:
    """Return all pairs of positions that are alike, the earlier one first."""
    found = [np.empty((2, 0), np.int64)]
    for low, high in bands(most_bits):
        values = (looks >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(values, kind="stable")
        for first, second in _neighbours(values[order]):
            a, b = order[first], order[second]
            close = np.bitwise_count(looks[a] ^ looks[b]) <= most_bits
            found.append(np.stack([np.minimum(a, b)[close], np.maximum(a, b)[close]]))
    pairs = np.unique(np.concatenate(found, axis=1), axis=1)
    return pairs[0], pairs[1]


def bands(most_bits: int) -> list[tuple[int, int]]:
    """Return the bands that a hash is cut into, as (first bit, end): one more than the bits that may differ."""
    ends = np.linspace(0, BITS, most_bits + 2).round().astype(int).tolist()
    return list(itertools.pairwise(ends))


def _neighbours(ordered: Looks) -> Iterator[tuple[Order, Order]]:
    """Yield pairs of positions that hold equal values, values being in order: all pairs 1 apart, then 2, and so on."""
    places = np.arange(len(ordered))
    distance = 1
    while len(places):
        places = places[places + distance < len(ordered)]
        places = places[ordered[places] == ordered[places + distance]]
        for start in range(0, len(places), PAIRS_AT_ONCE):
            part = places[start : start + PAIRS_AT_ONCE]
            yield part, part + distance
        distance += 1
