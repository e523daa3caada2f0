"""Chunk files: the decoded images of one chunk, in the order of their shards, with an index for each shard.

A worker writes the file of a chunk as a whole or not at all. The name is a digest of everything that the content depends
on, so a repeated attempt, on any runner, and the run after one that was killed find it finished. Only the positions of the
indexes travel between workers, about 60 bytes for each chunk and shard: runners keep what they shuffle in memory, some of them
more than ten times. Records are copied from file to file at the end.

    magic, length of the header (8 bytes) | header, JSON | part of each shard: index, ids, unreadable images as JSON Lines |
    records, framed as in a TFRecord file | magic
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.store import Store
from components.dataset.records import framed
from components.ingest.beam.sorted_rows import packed_rows
from components.ingest.sources.chunks import SPLIT_CODES, digest_number

MAGIC = b"WGANCHK1"
# Digests are compared as two big-endian numbers, so that their order is that of their bytes.
ENTRY = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("label", "<i8"), ("split", "u1"), ("offset", "<u8"), ("length", "<u4"),
     ("perceptual_hash", "<u8"), ("id_end", "<u4")]
)  # fmt: skip

Entries = npt.NDArray[np.void]
Rejected = tuple[str, str, str, str]  # id, reason, detail, digest of the first bytes
# Name of a chunk file, first byte of a part, and the bytes of its entries, its ids and its rejected images.
PartSpan = tuple[str, int, int, int, int]


class Part(NamedTuple):
    """What a chunk holds of a shard: name of its file, packed entries, concatenated ids as UTF-8, rejected images as rows."""

    name: str
    entries: bytes
    ids: bytes
    rejected: bytes


class Item(NamedTuple):
    """One decoded image: pixel digest, label, split ("": chosen by hash), perceptual hash, id, serialised example."""

    digest: bytes
    label: int
    split: str
    perceptual_hash: int
    id: str
    example: bytes


class ChunkFile(NamedTuple):
    """The header of a chunk file: the number of images read, and the position of the part of each shard that has one."""

    read: int
    parts: dict[int, PartSpan]


def shard_of(digest: bytes, shards: int) -> int:
    """Return the index of an image's shard, from other bytes of the digest than its split."""
    return int.from_bytes(digest[8:16], "big") % shards


def write_chunk(store: Store, name: str, read: int, items: Iterable[Item], rejected: list[Rejected], shards: int) -> ChunkFile:
    """Write a chunk file, as a whole or not at all, and return its header. Raises ArtifactError."""
    kept: dict[int, list[Item]] = {}
    for item in items:
        kept.setdefault(shard_of(item.digest, shards), []).append(item)
    omitted: dict[int, list[Rejected]] = {}
    for row in rejected:
        omitted.setdefault(digest_number(row[0].encode()) % shards, []).append(row)
    parts: dict[int, tuple[Entries, bytes, bytes]] = {}
    frames: list[bytes] = []
    for shard in sorted({*kept, *omitted}):
        framed_items = [framed(item.example) for item in kept.get(shard, [])]
        parts[shard] = (*_index(kept.get(shard, []), framed_items), packed_rows(omitted.get(shard, [])))
        frames += framed_items
    sizes = {shard: [entries.nbytes, len(ids), len(rows)] for shard, (entries, ids, rows) in parts.items()}
    header = json.dumps({"read": read, "parts": sizes, "records": sum(map(len, frames))}).encode()
    start = _start(header) + sum(map(sum, sizes.values()))
    for entries, _, _ in parts.values():
        entries["offset"] += start
        start += int(entries["length"].sum())
    packed = (entries.tobytes() + ids + rows for entries, ids, rows in parts.values())
    store.write(name, chain([MAGIC, struct.pack("<Q", len(header)), header], packed, frames, [MAGIC]))
    return ChunkFile(read, _spans(name, _start(header), sizes))


def _start(header: bytes) -> int:
    """Return the first byte behind a header."""
    return len(MAGIC) + 8 + len(header)


def _spans(name: str, start: int, sizes: dict[int, list[int]]) -> dict[int, PartSpan]:
    spans: dict[int, PartSpan] = {}
    for shard, (entries, ids, rows) in sizes.items():
        spans[shard] = (name, start, entries, ids, rows)
        start += entries + ids + rows
    return spans


def _index(items: list[Item], frames: list[bytes]) -> tuple[Entries, bytes]:
    """Return the entries of one shard's items, with offsets relative to its first record, and the concatenated ids."""
    entries = np.empty(len(items), ENTRY)
    ids = [item.id.encode() for item in items]
    digests = np.frombuffer(b"".join(item.digest for item in items), ">u8").reshape(-1, 2)
    entries["high"], entries["low"] = digests[:, 0], digests[:, 1]
    entries["label"] = [item.label for item in items]
    entries["split"] = [SPLIT_CODES.index(item.split) for item in items]
    entries["length"] = [len(frame) for frame in frames]
    entries["offset"] = np.cumsum(entries["length"], dtype=np.uint64) - entries["length"]
    entries["perceptual_hash"] = [item.perceptual_hash for item in items]
    entries["id_end"] = np.cumsum([len(id) for id in ids])
    return entries, b"".join(ids)


def read_chunk_file(store: Store, name: str) -> ChunkFile | None:
    """Return the header of a chunk file, None if the file is missing or incomplete."""
    try:
        with store.open(name) as stream:
            magic, length = struct.unpack("<8sQ", stream.read(len(MAGIC) + 8))
            content = stream.read(length)
            header: dict[str, Any] = json.loads(content)
            sizes = {int(shard): [int(size) for size in of_shard] for shard, of_shard in header["parts"].items()}
            stream.seek(_start(content) + sum(map(sum, sizes.values())) + header["records"])
            if magic != MAGIC or stream.read() != MAGIC:
                return None
            return ChunkFile(int(header["read"]), _spans(name, _start(content), sizes))
    except (FileNotFoundError, struct.error, ValueError, LookupError, TypeError):
        return None


def read_parts(store: Store, spans: Sequence[PartSpan]) -> list[Part]:
    """Return the parts at these positions. Raises ArtifactError."""
    parts = []
    with store.spans([(name, first, sum(sizes)) for name, first, *sizes in spans]) as read:
        for name, first, *sizes in spans:
            content = read(name, first, sum(sizes))
            ids_end = sizes[0] + sizes[1]
            parts.append(Part(name, content[: sizes[0]], content[sizes[0] : ids_end], content[ids_end:]))
    return parts
