"""Chunk files: the decoded images of one chunk, in the order of their shards, with an index for each shard.

A worker writes the file of a chunk as a whole or not at all. The name is a digest of everything that the content depends
on, so a repeated attempt, on any runner, and the run after one that was killed find it finished. Only the index travels
between workers, about 60 bytes an image; records are copied from file to file at the end.

    magic, length of the header (8 bytes) | header, JSON | index of each shard | records, framed as in a TFRecord file | magic
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.store import Store
from components.dataset.records import framed
from components.ingest.sources.chunks import SPLIT_CODES

MAGIC = b"WGANCHK1"
# Digests are compared as two big-endian numbers, so that their order is that of their bytes.
ENTRY = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("label", "<i8"), ("split", "u1"), ("offset", "<u8"), ("length", "<u4"),
     ("perceptual_hash", "<u8"), ("id_end", "<u4")]
)  # fmt: skip

Entries = npt.NDArray[np.void]
Rejected = tuple[str, str, str, str]  # id, reason, detail, digest of the first bytes
Part = tuple[str, bytes, bytes]  # name of the chunk file, packed entries, concatenated ids as UTF-8


class Item(NamedTuple):
    """One decoded image: pixel digest, label, split ("": chosen by hash), perceptual hash, id, serialised example."""

    digest: bytes
    label: int
    split: str
    perceptual_hash: int
    id: str
    example: bytes


class ChunkFile(NamedTuple):
    """The content of a chunk file without its records: images read, rejected ones, and the index of each non-empty shard."""

    read: int
    rejected: list[Rejected]
    parts: dict[int, Part]


def shard_of(digest: bytes, shards: int) -> int:
    """Return the index of an image's shard, from other bytes of the digest than its split."""
    return int.from_bytes(digest[8:16], "big") % shards


def write_chunk(store: Store, name: str, read: int, items: Iterable[Item], rejected: list[Rejected], shards: int) -> ChunkFile:
    """Write a chunk file, as a whole or not at all, and return its content. Raises ArtifactError."""
    by_shard: dict[int, list[Item]] = {}
    for item in items:
        by_shard.setdefault(shard_of(item.digest, shards), []).append(item)
    indexes: dict[int, tuple[Entries, bytes]] = {}
    frames: list[bytes] = []
    for shard in sorted(by_shard):
        framed_items = [framed(item.example) for item in by_shard[shard]]
        indexes[shard] = _index(by_shard[shard], framed_items)
        frames += framed_items
    sizes = {shard: [entries.nbytes, len(ids)] for shard, (entries, ids) in indexes.items()}
    header = json.dumps({"read": read, "rejected": rejected, "index": sizes}).encode()
    start = len(MAGIC) + 8 + len(header) + sum(map(sum, sizes.values()))
    for entries, _ in indexes.values():
        entries["offset"] += start
        start += int(entries["length"].sum())
    parts = {shard: (name, entries.tobytes(), ids) for shard, (entries, ids) in indexes.items()}
    packed = (entries + ids for _, entries, ids in parts.values())
    store.write(name, chain([MAGIC, struct.pack("<Q", len(header)), header], packed, frames, [MAGIC]))
    return ChunkFile(read, rejected, parts)


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
    """Return the content of a chunk file, None if it is missing or incomplete."""
    try:
        with store.open(name) as stream:
            magic, length = struct.unpack("<8sQ", stream.read(len(MAGIC) + 8))
            header: dict[str, Any] = json.loads(stream.read(length))
            parts = {
                int(shard): (name, stream.read(entries), stream.read(ids)) for shard, (entries, ids) in header["index"].items()
            }
            records = sum(int(np.frombuffer(entries, ENTRY)["length"].sum()) for _, entries, _ in parts.values())
            stream.seek(records, os.SEEK_CUR)
            whole = magic == MAGIC and stream.read() == MAGIC
    except (FileNotFoundError, struct.error, ValueError, LookupError, TypeError):
        return None
    return ChunkFile(header["read"], [tuple(row) for row in header["rejected"]], parts) if whole else None
