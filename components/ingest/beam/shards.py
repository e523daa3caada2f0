"""One shard: which of equal images is kept, which split each goes to, and the two files that they are written to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.errors import ArtifactError
from components.dataset.records import SPLITS, is_whole, shard_name
from components.ingest.beam.chunk_files import ENTRY, FORCED, Entries, Part
from components.ingest.beam.store import ReadPart, Span, Store
from components.ingest.beam.worker_errors import writing

EVAL = FORCED.index("eval")
Dropped = tuple[str, str, str]  # id, id of the image that was kept, kind
SAME_PIXELS = "same pixels"


class Shard(NamedTuple):
    """The images of one shard that come from all chunks: entries in the order of their digests, ids, names of chunk files."""

    entries: Entries
    ids: tuple[str, ...]
    chunks: tuple[str, ...]

    def part(self, chosen: npt.NDArray[np.intp]) -> Shard:
        """Return the shard with the chosen images alone, in that order."""
        places = chosen.tolist()
        return Shard(self.entries[chosen], tuple(self.ids[at] for at in places), tuple(self.chunks[at] for at in places))


def join_parts(parts: Sequence[Part]) -> Shard:
    """Return one shard from the index that each chunk has of it.

    Images are ordered by digest; of equal ones a held-out image comes first, then the smallest id: the order depends on
    the images alone, not on how they came.
    """
    found = [unpack(part) for part in parts]
    entries = np.concatenate([np.empty(0, ENTRY), *(entries for entries, _ in found)])
    ids = [id for _, ids in found for id in ids]
    chunks = [name for (name, _, _), (entries, _) in zip(parts, found, strict=True) for _ in range(len(entries))]
    order = np.lexsort((entries["low"], entries["high"]))
    whole = Shard(entries, tuple(ids), tuple(chunks)).part(order)
    return whole.part(_ties_by_id(whole))


def unpack(part: Part) -> tuple[Entries, list[str]]:
    """Return entries and ids of one part."""
    _, packed, blob = part
    entries = np.frombuffer(packed, ENTRY)
    ends = entries["id_end"].tolist()
    return entries, [blob[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]


def _ties_by_id(shard: Shard) -> npt.NDArray[np.intp]:
    """Return the order that puts, among images of equal digest, held-out ones first, then smaller ids."""
    order = np.arange(len(shard.entries))
    for start, end in _runs(shard.entries):
        order[start:end] = sorted(order[start:end], key=lambda at: (shard.entries["split"][at] != EVAL, shard.ids[at]))
    return order


def _runs(entries: Entries) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each run of more than one image of equal digest; entries are in the order of digests."""
    same = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
    first = np.flatnonzero(np.concatenate([[True], ~same])) if len(entries) else np.empty(0, np.int64)
    ends = np.append(first[1:], len(entries))
    for at in np.flatnonzero(ends - first > 1):
        yield int(first[at]), int(ends[at])


def drop_equals(shard: Shard) -> tuple[Shard, list[Dropped]]:
    """Return the shard with one of equal images each, and those that were dropped.

    An image that is in both splits stays held out, or the model would be scored on images that it was trained on.
    """
    kept = np.ones(len(shard.entries), bool)
    dropped: list[Dropped] = []
    for start, end in _runs(shard.entries):
        kept[start + 1 : end] = False
        dropped += [(shard.ids[at], shard.ids[start], SAME_PIXELS) for at in range(start + 1, end)]
    return shard.part(np.flatnonzero(kept)), dropped


def splits_of(entries: Entries, eval_fraction: float) -> npt.NDArray[np.bool_]:
    """Return which images are held out: as the source says, else by a hash of their pixels, so that none ever moves."""
    by_hash = entries["high"] < np.uint64(int(eval_fraction * 2**64))
    return np.where(entries["split"] == 0, by_hash, entries["split"] == EVAL)


def write_shard(shard: Shard, store: Store, index: int, shards: int, eval_fraction: float) -> tuple[dict[str, int], list[int]]:
    """Write the two files of a shard in the order of the digests; return counts by split and by label, and their sizes.

    Records are copied from the chunk files in `store`, each checked. Raises ArtifactError.
    """
    held_out = splits_of(shard.entries, eval_fraction)
    counts: dict[str, int] = {}
    sizes: list[int] = []
    with store.parts(_spans(shard)) as read:
        for split in SPLITS:
            chosen = shard.part(np.flatnonzero(held_out == (split == "eval")))
            name = shard_name(split, index, shards)
            with writing(name):
                sizes.append(store.write(name, _frames(chosen, read)))
            counts[split] = len(chosen.ids)
            labels, numbers = np.unique(chosen.entries["label"], return_counts=True)
            counts |= {f"{split} label {label}": int(number) for label, number in zip(labels, numbers, strict=True)}
    return counts, sizes


def _spans(shard: Shard) -> list[Span]:
    offsets, lengths = shard.entries["offset"].tolist(), shard.entries["length"].tolist()
    return list(zip(shard.chunks, offsets, lengths, strict=True))


def _frames(shard: Shard, read: ReadPart) -> Iterator[bytes]:
    """Yield the framed records of a shard. Raises ArtifactError when one is damaged."""
    for name, offset, length in _spans(shard):
        frame = read(name, offset, length)
        if not is_whole(frame):
            raise ArtifactError(f"The chunk file {name} is damaged at byte {offset}.", "Remove it and run again.")
        yield frame
