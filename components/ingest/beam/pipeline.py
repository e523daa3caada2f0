"""The Beam pipeline: read and decode chunks, drop duplicates, split and shard by hash, write, and count every image.

The result is the same on every runner, with any number of workers and any number of repeated attempts, because the name of
a chunk file says what it depends on (chunk_files.py), grouped values are sorted before they are used, and each file appears
as a whole under its final name. Beam's own file sinks break on runners that evaluate the graph more than once. Workers on
other machines must see the chunk folder under the same path, or it is a URL.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from components.common.artifacts import digest_of
from components.common.errors import PipelineError
from components.common.store import Store, store_at
from components.dataset.records import SPLITS, encode_pixels, shard_name
from components.ingest.beam.chunk_files import ChunkFile, Item, Part, Rejected, read_chunk_file, write_chunk
from components.ingest.beam.quiet_beam import beam
from components.ingest.beam.shards import EVAL, Dropped, ShardIndex, drop_equals, join_parts, write_shard
from components.ingest.config import Decoding, IngestConfig
from components.ingest.pixels.decode import decode, prepare_pillow
from components.ingest.pixels.near_duplicates import NEAR_DUPLICATE, find_near_duplicates
from components.ingest.sources.chunks import HEAD_BYTES, CannotReadError, Chunk, Reader, Unread
from components.ingest.sources.readers import read_chunk

COUNTS_FILE = "counts.json"
QUARANTINE_FILE = "quarantine.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
CHUNK_SUFFIX = ".chunk"
NO_PART: Part = ("", b"", b"")

Counts = dict[str, int]
OUTCOMES = ("kept", "duplicate", "quarantined")
LISTS = {
    "quarantined": (QUARANTINE_FILE, ("id", "reason", "detail", "head")),
    "duplicate": (DUPLICATES_FILE, ("id", "of", "kind")),
}


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


def build(pipeline: Any, reader: Reader, settings: WorkerSettings, near_duplicates: int = -1) -> None:
    """Add all steps to `pipeline`, which writes shards, the lists of omitted images, and counts to the store.

    Images whose perceptual hashes differ in at most `near_duplicates` bits count as duplicates too; -1: off.
    """
    chunks = pipeline | "List chunks" >> beam.Create(reader.chunks) | "Spread chunks" >> beam.Reshuffle()
    examine = beam.ParDo(Examine(settings)).with_output_types(tuple[int, Part])
    examined = chunks | "Decode" >> examine.with_outputs("rejected", "read", main="parts")
    # Empty shards are written too.
    no_part = beam.Create([(number, NO_PART) for number in range(settings.shards)]).with_output_types(tuple[int, Part])
    grouped = (
        (examined.parts, pipeline | "All shards" >> no_part)
        | "Parts and shards" >> beam.Flatten()
        | "Shard" >> beam.GroupByKey()
    )
    shards = grouped
    if near_duplicates >= 0:
        hashes = grouped | "Hashes" >> beam.Map(hashes_of_shard)
        dropped = _gathered(pipeline, hashes, "hashes") | "Near duplicates" >> beam.FlatMap(drop_near, near_duplicates)
        shards = {"parts": grouped, "dropped": dropped} | "Shards and near duplicates" >> beam.CoGroupByKey()
    written = shards | "Write shards" >> beam.ParDo(WriteShard(settings)).with_outputs("dropped", main="counts")
    omitted = [
        _gathered(pipeline, rows, outcome) | f"Write {outcome}" >> beam.Map(write_list, settings, outcome)
        for outcome, rows in (("quarantined", examined.rejected), ("duplicate", written.dropped))
    ]
    counts = (examined.read, written.counts, *omitted) | "All counts" >> beam.Flatten()
    _ = _gathered(pipeline, counts, "counts") | "Write counts" >> beam.Map(write_counts, settings, reader.total)


def _gathered(pipeline: Any, values: Any, name: str) -> Any:
    """Collect all values in one list, which exists even if there is no value."""
    nothing = pipeline | f"No {name}" >> beam.Create([(0, [])])
    some = values | f"Key {name}" >> beam.Map(lambda value: (0, [value]))
    return (nothing, some) | f"Flatten {name}" >> beam.Flatten() | f"Gather {name}" >> beam.GroupByKey()


class Examine(beam.DoFn):  # type: ignore[misc]  # Beam ships no types
    """Decode a chunk into its file: yields (shard, Part), a list of Rejected to `rejected`, and counts to `read`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def setup(self) -> None:
        """Prepare Pillow in the process of this worker."""
        prepare_pillow(self._settings.decoding.max_pixels)

    def process(self, chunk: Chunk) -> Iterator[Any]:
        """Decode a chunk, unless an earlier attempt did."""
        name = f"{chunk_name(chunk, self._settings.key)}{CHUNK_SUFFIX}"
        file = read_chunk_file(self._settings.store, name) or decode_chunk(chunk, self._settings, name)
        yield from file.parts.items()
        yield beam.pvalue.TaggedOutput("rejected", file.rejected)
        yield beam.pvalue.TaggedOutput("read", {"read": file.read})


def chunk_name(chunk: Chunk, key: str) -> str:
    """Return the name of a chunk's file: a digest of its listing and of `key`, which stands for config and code."""
    return hashlib.blake2b(repr((key, chunk)).encode(errors="surrogateescape"), digest_size=16).hexdigest()


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


def hashes_of_shard(grouped: tuple[int, Iterable[Part]]) -> tuple[int, bytes, bytes, list[str]]:
    """Return, for the images left after equal ones are dropped: shard, perceptual hashes, which are held out, and ids."""
    number, parts = grouped
    index, _ = drop_equals(join_parts(in_order(parts)))
    by_source = (index.entries["split"] == EVAL).astype(np.uint8)
    return number, index.entries["perceptual_hash"].tobytes(), by_source.tobytes(), list(index.ids)


def drop_near(gathered: tuple[int, Iterable[list[Any]]], max_bits: int) -> Iterator[tuple[int, Dropped]]:
    """Yield (shard, Dropped) for each near duplicate; images held out by the source, then smaller ids, are kept first."""
    shards = sorted(item for items in gathered[1] for item in items)
    hashes = np.frombuffer(b"".join(hashes for _, hashes, _, _ in shards), np.uint64)
    by_source = np.frombuffer(b"".join(flags for _, _, flags, _ in shards), np.uint8)
    ids = [id for _, _, _, names in shards for id in names]
    shard_of = np.repeat([number for number, *_ in shards], [len(names) for *_, names in shards])
    order = np.array(sorted(range(len(ids)), key=lambda at: (not by_source[at], ids[at])), np.int64)
    pairs = find_near_duplicates(hashes[order], max_bits)
    for dropped, kept in zip(order[pairs.dropped].tolist(), order[pairs.kept].tolist(), strict=True):
        yield int(shard_of[dropped]), (ids[dropped], ids[kept], NEAR_DUPLICATE)


def in_order(parts: Iterable[Part]) -> list[Part]:
    """Return the parts of a shard by the names of their chunk files, without those that a repeated attempt sent again."""
    return sorted(set(parts) - {NO_PART})


class WriteShard(beam.DoFn):  # type: ignore[misc]
    """Write a shard: yields its counts, and lists of Dropped to `dropped`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def process(self, grouped: tuple[int, Any]) -> Iterator[Any]:
        """Write one shard, unless an earlier attempt did."""
        number, values = grouped
        parts, near = values, []
        if isinstance(values, dict):  # with near duplicates
            parts, near = (part for group in values["parts"] for part in group), sorted(values["dropped"])
        index, dropped = drop_equals(join_parts(in_order(parts)))
        gone = {id for id, _, _ in near}
        index = index.part(np.array([at for at, id in enumerate(index.ids) if id not in gone], np.intp)) if gone else index
        yield write_once(index, self._settings, number)
        yield beam.pvalue.TaggedOutput("dropped", [*dropped, *near])


def write_once(index: ShardIndex, settings: WorkerSettings, number: int) -> Counts:
    """Write the files of a shard and then a note with its counts, or return the counts of a note that matches."""
    store, note = settings.store, f"shard-{number:05d}.json"
    entries = hashlib.sha256(index.entries.tobytes()).hexdigest()
    inputs = digest_of([entries, sorted(set(index.chunks)), settings.key, settings.eval_fraction])
    try:
        written = json.loads(store.read(note))
        sizes = [store.size(shard_name(split, number, settings.shards)) for split in SPLITS]
        if written["inputs"] == inputs and written["bytes"] == sizes:
            return dict(written["counts"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    counts, sizes = write_shard(index, store, number, settings.shards, settings.eval_fraction)
    store.write(note, [json.dumps({"inputs": inputs, "counts": counts, "bytes": sizes}).encode()])
    return counts


def write_list(gathered: tuple[int, Iterable[list[Any]]], settings: WorkerSettings, outcome: str) -> Counts:
    """Write the list of an outcome as JSON Lines, sorted by id; return the number of its lines. Raises ArtifactError."""
    name, keys = LISTS[outcome]
    rows = sorted(tuple(row) for lists in gathered[1] for part in lists for row in part)
    lines = [json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False) for row in rows]
    settings.store.write(name, [f"{line}\n".encode() for line in lines])
    return {outcome: len(lines)}


def write_counts(gathered: tuple[int, Iterable[list[Counts]]], settings: WorkerSettings, total: int) -> None:
    """Write the sum of all counts as counts.json. Raises PipelineError if an image was lost or counted twice."""
    sums: Counter[str] = Counter()
    for counts in (counts for group in gathered[1] for counts in group):
        sums.update(counts)
    settings.store.write(COUNTS_FILE, [json.dumps({**sums, **balanced(sums, total)}).encode()])


def balanced(sums: Counts, total: int) -> Counts:
    """Return read, kept, duplicate, quarantined, train and eval.

    Raises PipelineError unless read equals the `total` of the source and the sum of kept, duplicate and quarantined; each
    is counted where it happens.
    """
    counts = {name: sums.get(name, 0) for name in ("read", "duplicate", "quarantined", *SPLITS)}
    counts["kept"] = sum(counts[split] for split in SPLITS)
    if not total == counts["read"] == sum(counts[name] for name in OUTCOMES):
        parts = " + ".join(f"{counts[name]} {name}" for name in OUTCOMES)
        raise PipelineError(
            f"Images were lost or counted twice: {total} in the source, {counts['read']} read, but {parts}.",
            "Run again; if it happens again, report it with your ingest.beam_options.",
        )
    return counts
