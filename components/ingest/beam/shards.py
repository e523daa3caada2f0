"""One shard: which of equal images to keep, which split each belongs to, and the two files they are written to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.errors import ArtifactError
from components.common.store import ReadSpan, Span, Store, writing
from components.dataset.records import SPLITS, is_whole, shard_name
from components.ingest.beam.chunk_files import ENTRY, Entries, Part
from components.ingest.sources.chunks import SPLIT_CODES

EVAL = SPLIT_CODES.index("eval")
Dropped = tuple[str, str, str]  # id, id of the image kept instead, kind of duplicate
SAME_PIXELS = "same pixels"


class ShardIndex(NamedTuple):
    """The images of one shard from all chunks: entries in the order of their digests, ids, names of their chunk files."""

    entries: Entries
    ids: tuple[str, ...]
    chunks: tuple[str, ...]

    def part(self, chosen: npt.NDArray[np.intp]) -> ShardIndex:
        """Return the index of the chosen images, in that order."""
        positions = chosen.tolist()
        return ShardIndex(
            self.entries[chosen], tuple(self.ids[at] for at in positions), tuple(self.chunks[at] for at in positions)
        )


def join_parts(parts: Sequence[Part]) -> ShardIndex:
    """Return the index of a shard, joined from its parts in the chunks.

    Images are ordered by digest; of equal ones, held-out images come first, then smaller ids. So the order depends on the
    images alone, not on the order of arrival.
    """
    unpacked = [_unpack(part) for part in parts]
    entries = np.concatenate([np.empty(0, ENTRY), *(entries for entries, _ in unpacked)])
    ids = [id for _, ids in unpacked for id in ids]
    chunks = [part.name for part, (entries, _) in zip(parts, unpacked, strict=True) for _ in range(len(entries))]
    index = ShardIndex(entries, tuple(ids), tuple(chunks)).part(np.lexsort((entries["low"], entries["high"])))
    order = np.arange(len(entries))
    for start, end in _equal_runs(index.entries):
        order[start:end] = sorted(order[start:end], key=lambda at: (index.entries["split"][at] != EVAL, index.ids[at]))
    return index.part(order)


def _unpack(part: Part) -> tuple[Entries, list[str]]:
    entries = np.frombuffer(part.entries, ENTRY)
    ends = entries["id_end"].tolist()
    return entries, [part.ids[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]


def _equal_runs(entries: Entries) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of two or more images of equal digest; entries are in the order of digests."""
    same = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
    first = np.flatnonzero(np.concatenate([[True], ~same])) if len(entries) else np.empty(0, np.int64)
    ends = np.append(first[1:], len(entries))
    for at in np.flatnonzero(ends - first > 1):
        yield int(first[at]), int(ends[at])


def drop_equals(index: ShardIndex) -> tuple[ShardIndex, list[Dropped]]:
    """Return the index with one of each set of equal images, and the dropped ones.

    An image that is in both splits stays held out: the model must not be scored on images that it was trained on.
    """
    kept = np.ones(len(index.entries), bool)
    dropped: list[Dropped] = []
    for start, end in _equal_runs(index.entries):
        kept[start + 1 : end] = False
        dropped += [(index.ids[at], index.ids[start], SAME_PIXELS) for at in range(start + 1, end)]
    return index.part(np.flatnonzero(kept)), dropped


def held_out(entries: Entries, eval_fraction: float) -> npt.NDArray[np.bool_]:
    """Return which images are held out: as the source says, else by a hash of the pixels, so that no image ever moves."""
    by_hash = entries["high"] < np.uint64(int(eval_fraction * 2**64))
    return np.where(entries["split"] == 0, by_hash, entries["split"] == EVAL)


def write_shard(
    index: ShardIndex, store: Store, number: int, shards: int, eval_fraction: float
) -> tuple[dict[str, int], list[int]]:
    """Write the two files of a shard in the order of the digests; return counts by split and label, and the file sizes.

    Records are copied from the chunk files in `store` and checked. Raises ArtifactError.
    """
    in_eval = held_out(index.entries, eval_fraction)
    counts: dict[str, int] = {}
    sizes: list[int] = []
    with store.spans(_spans(index)) as read:
        for split in SPLITS:
            chosen = index.part(np.flatnonzero(in_eval == (split == "eval")))
            name = shard_name(split, number, shards)
            with writing(name):
                sizes.append(store.write(name, _frames(chosen, read)))
            counts[split] = len(chosen.ids)
            labels, numbers = np.unique(chosen.entries["label"], return_counts=True)
            counts |= {f"{split} label {label}": int(count) for label, count in zip(labels, numbers, strict=True)}
    return counts, sizes


def _spans(index: ShardIndex) -> list[Span]:
    return list(zip(index.chunks, index.entries["offset"].tolist(), index.entries["length"].tolist(), strict=True))


def _frames(index: ShardIndex, read: ReadSpan) -> Iterator[bytes]:
    """Yield the framed records of a shard. Raises ArtifactError when one is damaged."""
    for name, offset, length in _spans(index):
        frame = read(name, offset, length)
        if not is_whole(frame):
            raise ArtifactError(f"The chunk file {name} is damaged at byte {offset}.", "Remove it and run again.")
        yield frame
