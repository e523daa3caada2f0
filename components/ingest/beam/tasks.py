"""What workers do: read and decode a chunk, and write the files of a shard. Importing this does not import Beam.

Repeated attempts change nothing, because the name of a chunk file says what it depends on (chunk_files.py), grouped values are
sorted before they are used, and each file appears as a whole under its final name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from components.common.artifacts import digest_of
from components.common.store import Span, Store, store_at
from components.dataset.records import SPLITS, encode_pixels, shard_name
from components.ingest.beam.chunk_files import ChunkFile, Item, PartSpan, Rejected, read_chunk_file, read_parts, write_chunk
from components.ingest.beam.hashes import read_near_duplicates, write_hashes, write_near_duplicates
from components.ingest.beam.results import LISTS, note_name, part_name
from components.ingest.beam.shards import ShardIndex, drop_equals, join_parts, write_shard
from components.ingest.beam.sorted_rows import unpacked_rows, write_rows
from components.ingest.config import Decoding, IngestConfig
from components.ingest.pixels.decode import decode
from components.ingest.sources.chunks import HEAD_BYTES, CannotReadError, Chunk, Unread
from components.ingest.sources.readers import read_chunk

CHUNK_SUFFIX = ".chunk"
NO_PART: PartSpan = ("", 0, 0, 0, 0)


class WorkerSettings(NamedTuple):
    """What workers need to know, as plain values: the location of chunk files, a key of config and code, and settings."""

    location: str
    key: str
    decoding: Decoding
    shards: int
    eval_fraction: float

    @property
    def store(self) -> Store:
        """The store at `location`, a path or a URL."""
        return store_at(self.location)


def worker_settings(config: IngestConfig, location: str, key: str) -> WorkerSettings:
    """Return what workers need to know."""
    decoding = Decoding(
        config.image_size, config.channels, config.resize, config.fit, config.max_pixels, config.max_seconds_per_image,
        perceptual_hashes=config.near_duplicates >= 0,
    )  # fmt: skip
    return WorkerSettings(location, key, decoding, config.shards, config.eval_fraction)


def chunk_name(chunk: Chunk, key: str) -> str:
    """Return the name of a chunk's file: a digest of its listing and of `key`, which stands for config and code."""
    return hashlib.blake2b(repr((key, chunk)).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def examine_chunk(chunk: Chunk, settings: WorkerSettings) -> ChunkFile:
    """Return the chunk file of a chunk, which is decoded unless an earlier attempt did. Raises ArtifactError."""
    name = f"{chunk_name(chunk, settings.key)}{CHUNK_SUFFIX}"
    return read_chunk_file(settings.store, name) or decode_chunk(chunk, settings, name)


def decode_chunk(chunk: Chunk, settings: WorkerSettings, name: str) -> ChunkFile:
    """Read, decode, check and resize the images of a chunk, and write its chunk file. Raises ArtifactError."""
    items, rejected = [], []
    for image in read_chunk(chunk):
        if isinstance(image, Unread):
            rejected.append(_rejected(image.id, image.reason, image.detail, image.head))
            continue
        try:
            decoded = decode(image.content, settings.decoding)
        except CannotReadError as error:
            rejected.append(_rejected(image.id, error.reason, error.detail, image.content))
        else:
            example = encode_pixels(decoded.pixels, image.label, image.id, decoded.height, decoded.width)
            items.append(Item(decoded.digest, image.label, image.split, decoded.perceptual_hash, image.id, example))
    return write_chunk(settings.store, name, len(items) + len(rejected), items, rejected, settings.shards)


def _rejected(id: str, reason: str, detail: str, head: bytes) -> Rejected:
    return id, reason, detail, hashlib.sha256(head[:HEAD_BYTES]).hexdigest()


def in_order(spans: Iterable[PartSpan]) -> list[PartSpan]:
    """Return the parts of a shard by the names of their chunk files, without those that a repeated attempt sent again."""
    return sorted(set(spans) - {NO_PART})


def write_hashes_of(grouped: tuple[int, Iterable[PartSpan]], settings: WorkerSettings) -> int:
    """Write the perceptual hashes of a shard, without equal images; return its number."""
    number, spans = grouped
    parts = read_parts(settings.store, in_order(spans))
    write_hashes(drop_equals(join_parts(parts))[0], settings.store, number)
    return number


def near_duplicates_of(shards: int, settings: WorkerSettings, max_bits: int) -> Iterator[tuple[int, Span]]:
    """Write the near duplicates of all shards; yield for each shard where they are."""
    yield from write_near_duplicates(settings.store, shards, max_bits)


def write_once(grouped: tuple[int, dict[str, Iterable[Any]]], settings: WorkerSettings) -> None:
    """Write the files of a shard and then a note with its counts, unless there is a note that matches."""
    number, values = grouped
    parts = read_parts(settings.store, in_order(values["parts"]))
    near = read_near_duplicates(settings.store, sorted(set(values.get("near", ()))))
    index, dropped = drop_equals(join_parts(parts))
    index = without(index, {id for id, _, _ in near})
    rejected = sorted(row for part in parts for row in unpacked_rows(part.rejected))
    rows = {"quarantined": rejected, "duplicate": sorted([*dropped, *near])}
    read = sum(count for _, count in set(values["read"]))  # as a set: without what a repeated attempt sent again
    entries = hashlib.sha256(index.entries.tobytes()).hexdigest()
    inputs = digest_of([entries, sorted(set(index.chunks)), rows, read, settings.key, settings.eval_fraction])
    if not is_written(settings, number, inputs):
        write_files(index, rows, read, settings, number, inputs)


def without(index: ShardIndex, ids: set[str]) -> ShardIndex:
    """Return a shard without some images."""
    return index.part(np.array([at for at, id in enumerate(index.ids) if id not in ids], np.intp)) if ids else index


def is_written(settings: WorkerSettings, number: int, inputs: str) -> bool:
    """Return whether an earlier attempt has written the files of a shard from these inputs."""
    store = settings.store
    try:
        note = json.loads(store.read(note_name(number)))
        sizes = [store.size(name) for name in file_names(settings, number)]
        return bool(note["inputs"] == inputs and note["bytes"] == sizes)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def file_names(settings: WorkerSettings, number: int) -> list[str]:
    """Return the names of a shard's files: its splits, and its parts of the lists."""
    splits = [shard_name(split, number, settings.shards) for split in SPLITS]
    return [*splits, *(part_name(outcome, number) for outcome in LISTS)]


def write_files(
    index: ShardIndex, rows: dict[str, list[Any]], read: int, settings: WorkerSettings, number: int, inputs: str
) -> None:
    """Write the files of a shard, and then its note."""
    store = settings.store
    counts, sizes = write_shard(index, store, number, settings.shards, settings.eval_fraction)
    counts["read"] = read
    for outcome in LISTS:
        sizes.append(write_rows(store, part_name(outcome, number), rows[outcome]))
        counts[outcome] = len(rows[outcome])
    store.write(note_name(number), [json.dumps({"inputs": inputs, "counts": counts, "bytes": sizes}).encode()])
