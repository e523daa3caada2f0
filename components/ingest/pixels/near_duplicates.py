"""Near duplicates: images whose perceptual hashes differ in few bits (optional; equal pixels are found in beam/shards.py).

Images are compared in the order of preference, and only with images that are kept. Kept hashes differ from one another in more
than the allowed bits, so 100,000 images that look alike are compared with a few kept ones and not with one another.

Kept hashes are found by parts of their bits (multi-index hashing, Norouzi, Punjani and Fleet 2012): two hashes that differ in
at most k bits, cut into m bands, differ in at most k // m bits of at least one band. The bands are interleaved, because
neighbouring bits come from neighbouring areas, which are often equally dark in many images.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

NEAR_DUPLICATE = "looks alike"  # in duplicates.jsonl: changing it changes the digests of datasets
BITS = 64
EXACT_BITS = 7  # up to here bands must be equal; for more bits those that differ in one bit are searched as well
BAND_BITS = 10  # at most: longer bands would have more buckets than images
BLOCK, STEP = 8192, 256  # hashes compared at once with those kept before the block, and within it
PAIRS_AT_ONCE = 1 << 17  # fits into a processor's cache

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
NONE = np.iinfo(np.int64).max


def perceptual_hash(image: Image.Image) -> int:
    """Return a 64-bit hash that differs in few bits for similar images.

    Difference hash (N. Krawetz, "Kind of like that", 2013): in 8 rows of 9 grey areas, is an area brighter than the next?
    """
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


class KeptHashes:
    """The perceptual hashes of the images kept so far, any two of which differ in more than `max_bits` bits.

    A kept hash takes 8 bytes and 4 for each band.
    """

    def __init__(self, max_bits: int) -> None:
        self._max_bits = max_bits
        self._bands = bands(max_bits)
        self._buckets = [[array("I") for _ in range(1 << len(band))] for band in self._bands]
        self._hashes = np.empty(BLOCK, np.uint64)
        self._count = 0

    def add(self, hashes: Hashes) -> Numbers:
        """Keep those of `hashes` (at most BLOCK, in the order of preference) that are similar to none kept before.

        Returns for each NONE if it is kept, else the number of the first kept hash that is similar; kept hashes are numbered
        from 0. How a sequence is cut into blocks changes nothing.
        """
        first = self._first_in_buckets(hashes)
        before = self._count
        if before + len(hashes) > len(self._hashes):
            self._hashes = np.resize(self._hashes, 2 * len(self._hashes))
        left = np.flatnonzero(first == NONE)
        for start in range(0, len(left), STEP):
            self._keep(hashes, left[start : start + STEP], first, before)
        self._fill_buckets(before)
        return first

    def _keep(self, hashes: Hashes, chosen: Numbers, first: Numbers, before: int) -> None:
        """Keep the chosen hashes that are similar to none kept since `before`; write the numbers of the others into `first`."""
        first[chosen] = self._first_similar(hashes[chosen], np.arange(before, self._count))
        chosen = chosen[first[chosen] == NONE]
        similar = np.triu(self._are_similar(hashes[chosen], hashes[chosen]), 1)
        for at in range(len(chosen)):
            if first[chosen[at]] == NONE:
                later = chosen[similar[at]]
                first[later] = np.minimum(first[later], self._count)
                self._hashes[self._count] = hashes[chosen[at]]
                self._count += 1

    def _first_in_buckets(self, hashes: Hashes) -> Numbers:
        first = np.full(len(hashes), NONE)
        for band, buckets in zip(self._bands, self._buckets, strict=True):
            for value, members in _grouped(_values(hashes, band)):
                near = [value, *(value ^ (1 << bit) for bit in range(len(band)))] if self._max_bits > EXACT_BITS else [value]
                numbers = np.concatenate([np.frombuffer(buckets[other], np.uint32) for other in near]).astype(np.int64)
                numbers.sort()
                first[members] = np.minimum(first[members], self._first_similar(hashes[members], numbers))
        return first

    def _first_similar(self, hashes: Hashes, numbers: Numbers) -> Numbers:
        """Return for each hash the first of these kept numbers (ascending) that is similar, NONE without one."""
        if not len(numbers):
            return np.full(len(hashes), NONE)
        kept, found = self._hashes[numbers], []
        rows = max(PAIRS_AT_ONCE // len(numbers), 1)
        for start in range(0, len(hashes), rows):
            similar = self._are_similar(hashes[start : start + rows], kept)
            found.append(np.where(similar.any(axis=1), numbers[similar.argmax(axis=1)], NONE))
        return np.concatenate([np.empty(0, np.int64), *found])

    def _are_similar(self, some: Hashes, others: Hashes) -> npt.NDArray[np.bool_]:
        close: npt.NDArray[np.bool_] = np.bitwise_count(some[:, None] ^ others) <= self._max_bits
        return close

    def _fill_buckets(self, before: int) -> None:
        new = self._hashes[before : self._count]
        for band, buckets in zip(self._bands, self._buckets, strict=True):
            for value, members in _grouped(_values(new, band)):
                buckets[value].frombytes((members + before).astype(np.uint32).tobytes())


def bands(max_bits: int) -> list[range]:
    """Return the bits of each band: of all bands together every bit once, unless bands would be longer than BAND_BITS."""
    count = max_bits + 1 if max_bits <= EXACT_BITS else max_bits // 2 + 1
    return [range(first, BITS, count)[:BAND_BITS] for first in range(count)]


def _values(hashes: Hashes, band: range) -> Numbers:
    """Return the bits of a band as a number."""
    value = np.zeros(len(hashes), np.int64)
    for at, bit in enumerate(band):
        value |= ((hashes >> np.uint64(bit)) & np.uint64(1)).astype(np.int64) << at
    return value


def _grouped(values: Numbers) -> Iterator[tuple[int, Numbers]]:
    """Yield each value with the positions that hold it, in ascending order."""
    order = np.argsort(values, kind="stable")
    ends = np.flatnonzero(np.diff(values[order])) + 1
    for members in np.split(order, ends) if len(order) else ():
        yield int(values[members[0]]), members
