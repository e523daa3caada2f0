"""Near duplicates of all shards: each shard writes its perceptual hashes, and one worker reads them as a stream.

Which images are kept depends on those kept before, so the images are compared one after another, in the order of preference.
The worker needs memory for the kept ones only: about 40 bytes each, and their ids.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from components.common.store import Span, Store
from components.ingest.beam.shards import EVAL, Dropped, ShardIndex
from components.ingest.beam.sorted_rows import packed_rows, read_rows, unpacked_rows, write_rows
from components.ingest.pixels.near_duplicates import BLOCK, NEAR_DUPLICATE, NONE, KeptHashes

Row = tuple[bool, str, int, int]  # whether the source does not hold it out, id, perceptual hash, shard


def write_hashes(index: ShardIndex, store: Store, number: int) -> None:
    """Write the perceptual hashes of a shard: images held out by the source first, then by id. Raises ArtifactError."""
    free = (index.entries["split"] != EVAL).tolist()
    hashes = index.entries["perceptual_hash"].tolist()
    write_rows(store, _name(number), sorted(zip(free, index.ids, hashes, itertools.repeat(number), strict=False)))


def write_near_duplicates(store: Store, shards: int, max_bits: int) -> Iterator[tuple[int, Span]]:
    """Write the images that are similar to a preferred one which is kept; yield for each shard where they are written."""
    kept, ids = KeptHashes(max_bits), _Ids()
    rows: Iterator[Row] = read_rows(store, [_name(number) for number in range(shards)])
    for number in itertools.count():
        block = list(itertools.islice(rows, BLOCK))
        if not block:
            return
        first = kept.add(np.array([hash for _, _, hash, _ in block], np.uint64)).tolist()
        ids.extend(id for similar, (_, id, _, _) in zip(first, block, strict=True) if similar == NONE)
        dropped: dict[int, list[Dropped]] = {}
        for similar, (_, id, _, shard) in zip(first, block, strict=True):
            if similar != NONE:
                dropped.setdefault(shard, []).append((id, ids[similar], NEAR_DUPLICATE))
        yield from _write_dropped(store, f"near-{number:08d}.jsonl", dropped)


def _write_dropped(store: Store, name: str, dropped: dict[int, list[Dropped]]) -> Iterator[tuple[int, Span]]:
    packed = {shard: packed_rows(rows) for shard, rows in dropped.items()}
    store.write(name, packed.values())
    start = 0
    for shard, content in packed.items():
        yield shard, (name, start, len(content))
        start += len(content)


def read_near_duplicates(store: Store, spans: Sequence[Span]) -> list[Dropped]:
    """Return the near duplicates of a shard, sorted. Raises ArtifactError."""
    with store.spans(spans) as read:
        rows = (row for span in spans for row in unpacked_rows(read(*span)))
        return sorted((id, of, kind) for id, of, kind in rows)


class _Ids:
    """A list of ids that takes little more memory than their text."""

    def __init__(self) -> None:
        self._text, self._ends = bytearray(), array("Q", [0])

    def extend(self, ids: Iterable[str]) -> None:
        for id in ids:
            self._text += id.encode()
            self._ends.append(len(self._text))

    def __getitem__(self, number: int) -> str:
        return self._text[self._ends[number] : self._ends[number + 1]].decode()


def _name(number: int) -> str:
    return f"hashes-{number:05d}.jsonl"
