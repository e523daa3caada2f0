"""The Beam pipeline: read and decode chunks, drop duplicates, split and shard by hash, write; every image is counted.

Three things make the outcome the same on every runner, with any number of workers, however often an attempt is repeated:
a chunk is made into one file whose name says what it depends on (spill.py); what is grouped is put into an order of its own
before it is used; and each file appears whole under its final name. Beam's own file sinks are not used: they break on
runners that evaluate the graph more than once. Workers on other machines must see the spill folder under the same path, or it
is an address.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from components.common.artifacts import digest_of
from components.common.errors import PipelineError
from components.dataset.records import SPLITS, encode_pixels, shard_name
from components.ingest.beam.chunk_files import ChunkFile, Item, Part, Rejected, read_chunk_file, write_chunk
from components.ingest.beam.quiet_beam import beam
from components.ingest.beam.shards import EVAL, Dropped, Shard, drop_equals, join_parts, write_shard
from components.ingest.beam.store import Store, bytes_of, store_at
from components.ingest.config import Decoding, IngestConfig
from components.ingest.pixels.decode import UnreadableImageError, decode, prepare_pillow
from components.ingest.pixels.near_duplicates import LOOKS_ALIKE, find_alike
from components.ingest.sources.readers import Chunk, Reader, Unread, read_chunk

COUNTS_FILE = "counts.json"
QUARANTINE_FILE = "quarantine.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
CHUNK_SUFFIX = ".chunk"
NO_PART: Part = ("", b"", b"")
HEAD_BYTES = 4096  # of a file that cannot be read: their digest tells equal ones

Counts = dict[str, int]
BALANCE = ("kept", "duplicate", "quarantined")


class Place(NamedTuple):
    """Where a pipeline keeps what it makes, and what it needs to know of the config; plain values."""

    spill: str
    key: str
    decoding: Decoding
    shards: int
    eval_fraction: float

    @property
    def store(self) -> Store:
        """What is at `spill`, a path or an address."""
        return store_at(self.spill)


def place_of(config: IngestConfig, spill: str, key: str) -> Place:
    """Return what workers need to know."""
    decoding = Decoding(
        config.image_size, config.channels, config.resize, config.fit, config.max_pixels, config.max_seconds_per_image,
        looks=config.near_duplicates >= 0,
    )  # fmt: skip
    return Place(spill, key, decoding, config.shards, config.eval_fraction)


def build(pipeline: Any, reader: Reader, place: Place, near_duplicates: int = -1) -> None:
    """Add every step to `pipeline`; when it has run, the spill folder holds shards, lists of what was left out, and counts.

    Images whose perceptual hashes differ in at most `near_duplicates` bits count as duplicates too; -1: they do not.
    """
    chunks = pipeline | "List chunks" >> beam.Create(reader.chunks) | "Spread chunks" >> beam.Reshuffle()
    examine = beam.ParDo(Examine(place)).with_output_types(tuple[int, Part])
    examined = chunks | "Decode" >> examine.with_outputs("rejected", "read", main="parts")
    # Every shard is written, an empty one too.
    no_part = beam.Create([(index, NO_PART) for index in range(place.shards)]).with_output_types(tuple[int, Part])
    grouped = (
        (examined.parts, pipeline | "All shards" >> no_part)
        | "Parts and shards" >> beam.Flatten()
        | "Shard" >> beam.GroupByKey()
    )
    if near_duplicates >= 0:
        looks = grouped | "Looks" >> beam.Map(looks_of_shard)
        alike = _gathered(pipeline, looks, "looks") | "Find alike" >> beam.FlatMap(alike_of_shards, near_duplicates)
        joined = {"parts": grouped, "alike": alike} | "Shards and alike" >> beam.CoGroupByKey()
        written = joined | "Write shards" >> beam.ParDo(WriteShard(place)).with_outputs("dropped", main="counts")
    else:
        written = grouped | "Write shards" >> beam.ParDo(WriteShard(place)).with_outputs("dropped", main="counts")
    quarantined = _gathered(pipeline, examined.rejected, "rejected") | "Write quarantine" >> beam.Map(write_quarantine, place)
    duplicates = _gathered(pipeline, written.dropped, "dropped") | "Write duplicates" >> beam.Map(write_duplicates, place)
    counts = (examined.read, written.counts, quarantined, duplicates) | "All counts" >> beam.Flatten()
    _ = _gathered(pipeline, counts, "counts") | "Write counts" >> beam.Map(write_counts, place, reader.total)


def _gathered(pipeline: Any, values: Any, name: str) -> Any:
    """Bring all values of a collection into one list, which exists when the collection is empty too."""
    nothing = pipeline | f"No {name}" >> beam.Create([(0, [])])
    some = values | f"Key {name}" >> beam.Map(lambda value: (0, [value]))
    return (nothing, some) | f"Flatten {name}" >> beam.Flatten() | f"Gather {name}" >> beam.GroupByKey()


class Examine(beam.DoFn):  # type: ignore[misc]  # Beam ships no types
    """Decode a chunk into its file: yields (shard, Part), a list of Rejected to `rejected`, and counts to `read`."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def setup(self) -> None:
        """Prepare Pillow in this worker's process."""
        prepare_pillow(self._place.decoding.max_pixels)

    def process(self, chunk: Chunk) -> Iterator[Any]:
        """Decode a chunk, unless that was done by an earlier attempt."""
        found = examine(chunk, self._place)
        yield from found.parts.items()
        yield beam.pvalue.TaggedOutput("rejected", found.rejected)
        yield beam.pvalue.TaggedOutput("read", {"read": found.read})


def examine(chunk: Chunk, place: Place) -> ChunkFile:
    """Read, decode, check and resize the images of a chunk; return what its chunk file says. Raises ArtifactError."""
    store, name = place.store, f"{chunk_name(chunk, place.key)}{CHUNK_SUFFIX}"
    return read_chunk_file(store, name) or _decode_chunk(chunk, place, store, name)


def chunk_name(chunk: Chunk, key: str) -> str:
    """Return the name of a chunk's file: a digest of what it lists and of `key`, which stands for config and code."""
    return hashlib.blake2b(repr((key, chunk)).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _decode_chunk(chunk: Chunk, place: Place, store: Store, name: str) -> ChunkFile:
    settings, items, rejected = place.decoding, [], []
    for image in read_chunk(chunk):
        if isinstance(image, Unread):
            rejected.append(_rejected(image.id, image.reason, image.detail, image.head))
            continue
        try:
            found = decode(image.content, settings)
        except UnreadableImageError as error:
            rejected.append(_rejected(image.id, error.reason, error.detail, image.content))
        else:
            example = encode_pixels(found.pixels, image.label, image.id, found.height, found.width)
            items.append(Item(found.digest, image.label, image.split, found.look, image.id, example))
    return write_chunk(store, name, len(items) + len(rejected), items, rejected, place.shards)


def _rejected(id: str, reason: str, detail: str, head: bytes) -> Rejected:
    return id, reason, detail, hashlib.sha256(head[:HEAD_BYTES]).hexdigest()


def looks_of_shard(grouped: tuple[int, Iterable[Part]]) -> tuple[int, bytes, bytes, list[str]]:
    """Return a shard's images after equal ones are dropped: index, perceptual hashes, which are held out by name, ids."""
    index, parts = grouped
    shard, _ = drop_equals(join_parts(in_order(parts)))
    held_out = (shard.entries["split"] == EVAL).astype(np.uint8)
    return index, shard.entries["look"].tobytes(), held_out.tobytes(), list(shard.ids)


def alike_of_shards(gathered: tuple[int, Iterable[list[Any]]], most_bits: int) -> Iterator[tuple[int, Dropped]]:
    """Yield (shard, Dropped) for each image that looks like one that is kept: held-out ones first, then the smallest id."""
    shards = sorted(item for items in gathered[1] for item in items)
    looks = np.frombuffer(b"".join(look for _, look, _, _ in shards), np.uint64)
    held_out = np.frombuffer(b"".join(flags for _, _, flags, _ in shards), np.uint8)
    ids = [id for _, _, _, names in shards for id in names]
    owner = np.repeat([index for index, *_ in shards], [len(names) for *_, names in shards])
    order = np.array(sorted(range(len(ids)), key=lambda at: (not held_out[at], ids[at])), np.int64)
    alike = find_alike(looks[order], most_bits)
    for dropped, kept in zip(order[alike.dropped].tolist(), order[alike.kept].tolist(), strict=True):
        yield int(owner[dropped]), (ids[dropped], ids[kept], LOOKS_ALIKE)


def in_order(parts: Iterable[Part]) -> list[Part]:
    """Return the parts of a shard by the names of their chunk files; one that a repeated attempt sent again counts once."""
    return sorted(set(parts) - {NO_PART})


class WriteShard(beam.DoFn):  # type: ignore[misc]
    """Write a shard: yields its counts, and lists of Dropped to `dropped`."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def process(self, grouped: tuple[int, Any]) -> Iterator[Any]:
        """Write one shard, unless that was done by an earlier attempt."""
        index, found = grouped
        if isinstance(found, dict):
            parts = [part for many in found["parts"] for part in many]
            alike = sorted(found["alike"])
        else:
            parts, alike = found, []
        shard, dropped = drop_equals(join_parts(in_order(parts)))
        gone = {id for id, _, _ in alike}
        shard = shard.part(np.array([at for at, id in enumerate(shard.ids) if id not in gone], np.intp)) if gone else shard
        yield once(shard, self._place, index)
        yield beam.pvalue.TaggedOutput("dropped", [*dropped, *alike])


def once(shard: Shard, place: Place, index: int) -> Counts:
    """Write a shard's files and then a note of it with its counts; where the note is there, return what it says."""
    store, note = place.store, f"shard-{index:05d}.json"
    chunks = sorted(set(shard.chunks))
    inputs = digest_of([hashlib.sha256(shard.entries.tobytes()).hexdigest(), chunks, place.key, place.eval_fraction])
    try:
        said = json.loads(bytes_of(store, note))
        if (
            said["inputs"] == inputs
            and [store.size(shard_name(split, index, place.shards)) for split in SPLITS] == said["bytes"]
        ):
            return dict(said["counts"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    counts, sizes = write_shard(shard, store, index, place.shards, place.eval_fraction)
    store.write(note, [json.dumps({"inputs": inputs, "counts": counts, "bytes": sizes}).encode()])
    return counts


def write_quarantine(gathered: tuple[int, Iterable[list[list[Rejected]]]], place: Place) -> Counts:
    """Write quarantine.jsonl, sorted by id; return the number of its lines."""
    rows = sorted(tuple(row) for lists in gathered[1] for rejected in lists for row in rejected)
    return {"quarantined": write_lines(place.store, QUARANTINE_FILE, ("id", "reason", "detail", "head"), rows)}


def write_duplicates(gathered: tuple[int, Iterable[list[list[Dropped]]]], place: Place) -> Counts:
    """Write duplicates.jsonl, sorted by id; return the number of its lines."""
    rows = sorted(tuple(row) for lists in gathered[1] for dropped in lists for row in dropped)
    return {"duplicate": write_lines(place.store, DUPLICATES_FILE, ("id", "of", "kind"), rows)}


def write_lines(store: Store, name: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Write rows as JSON Lines and return their number. Raises ArtifactError."""
    lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in rows]
    store.write(name, [f"{line}\n".encode() for line in lines])
    return len(lines)


def write_counts(gathered: tuple[int, Iterable[list[Counts]]], place: Place, total: int) -> None:
    """Write the sum of all counts as counts.json. Raises PipelineError when an image was lost or appeared on the way."""
    sums: Counts = {}
    for counts in (counts for many in gathered[1] for counts in many):
        for name, number in counts.items():
            sums[name] = sums.get(name, 0) + number
    place.store.write(COUNTS_FILE, [json.dumps(sums | balanced(sums, total)).encode()])


def balanced(tally: Counts, total: int) -> Counts:
    """Return read, kept, duplicate, quarantined, train, eval; each was counted where it happened.

    Raises PipelineError when an image was lost or appeared on the way: read must be the `total` of the source, and
    kept + duplicate + quarantined.
    """
    counts = {name: tally.get(name, 0) for name in ("read", "duplicate", "quarantined", *SPLITS)}
    counts["kept"] = sum(counts[split] for split in SPLITS)
    if not total == counts["read"] == sum(counts[name] for name in BALANCE):
        parts = " + ".join(f"{counts[name]} {name}" for name in BALANCE)
        raise PipelineError(
            f"Images were lost or doubled on the way: {total} in the source, {counts['read']} read, but {parts}.",
            "Run again; if it stays so, report it together with ingest.beam_options.",
        )
    return counts
