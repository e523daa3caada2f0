"""The Beam pipeline: decode and check, drop duplicates, split and shard by hash, write; every image is counted.

Beam's own file sinks are not used: they break on runners that evaluate the graph more than once. Each shard is written
whole by one worker, under a temporary name, then renamed, so a repeated attempt changes nothing. Workers on other
machines must see the output folder under the same path.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from components.artifacts import write_text
from components.ingest.config import IngestConfig
from components.ingest.decode import Decoding, UnreadableImageError, decode, silence_pillow
from components.ingest.quiet_beam import beam
from components.ingest.readers import Chunk, RawImage, Reader, Unread, read_chunk
from components.ingest.worker_errors import writing
from components.progress import tick
from components.records import SPLITS, Record, encode_example, shard_name, write_tfrecord

COUNTS_FILE = "counts.json"
QUARANTINE_FILE = "quarantine.jsonl"
SECONDS_BETWEEN_TICKS = 1.0

# What crosses from worker to worker is made of plain tuples, which Beam encodes without pickling.
Candidate = tuple[str, int, str, bytes]  # id, label, forced split or "", pixels
Rejected = tuple[str, str, str]  # id, reason, detail
ShardKey = tuple[str, int]  # split, index
ShardItem = tuple[bytes, int, bytes]  # pixel digest, label, serialised example
Count = tuple[str, int]  # what, how many


def build(pipeline: Any, reader: Reader, config: IngestConfig, folder: Path) -> None:
    """Add every step to `pipeline`; when it has run, `folder` holds the shards, quarantine.jsonl and counts.json."""
    chunks = pipeline | "List chunks" >> beam.Create(reader.chunks) | "Spread chunks" >> beam.Reshuffle()
    examine = beam.ParDo(Examine(config, reader.total)).with_output_types(tuple[bytes, Candidate])
    examined = chunks | "Decode" >> examine.with_outputs("rejected", "read", main="candidates")
    chosen = (
        examined.candidates
        | "Same pixels" >> beam.GroupByKey()
        | "Drop duplicates"
        >> beam.FlatMap(one_of_equals, config)
        .with_output_types(tuple[ShardKey, ShardItem])
        .with_outputs("duplicates", main="records")
    )
    keys = [(shard_key, (b"", 0, b"")) for shard_key in shard_keys(config.shards)]
    shard_counts = (
        (chosen.records, pipeline | "All shards" >> beam.Create(keys).with_output_types(tuple[ShardKey, ShardItem]))
        | "Records and shards" >> beam.Flatten()
        | "Shard" >> beam.GroupByKey()
        | "Write shards" >> beam.FlatMap(write_shard, folder, config.shards)
    )
    rejected = _gathered(pipeline, examined.rejected, "rejected")
    rejected_count = rejected | "Write quarantine" >> beam.FlatMap(write_quarantine, folder)
    read_count = examined.read | "Count read" >> beam.CombineGlobally(sum) | "Name read" >> beam.Map(_named, "read")
    dropped = chosen.duplicates | "Count duplicates" >> beam.CombineGlobally(sum)
    duplicate_count = dropped | "Name duplicate" >> beam.Map(_named, "duplicate")
    counts = (read_count, duplicate_count, rejected_count, shard_counts) | "All counts" >> beam.Flatten()
    _ = _gathered(pipeline, counts, "counts") | "Write counts" >> beam.Map(write_counts, folder)


def _gathered(pipeline: Any, values: Any, name: str) -> Any:
    """Bring all values of a collection into one list, which exists when the collection is empty too."""
    nothing = pipeline | f"No {name}" >> beam.Create([(0, [])])
    some = values | f"Key {name}" >> beam.Map(lambda value: (0, [value]))
    return (nothing, some) | f"Flatten {name}" >> beam.Flatten() | f"Gather {name}" >> beam.GroupByKey()


def _named(number: int, name: str) -> Count:
    return name, number


class Examine(beam.DoFn):  # type: ignore[misc]  # Beam ships no types
    """Read, decode, check and resize the images of a chunk: yields (pixel digest, Candidate), Rejected to `rejected`,
    and to `read` the number of images.
    """

    def __init__(self, config: IngestConfig, total: int) -> None:
        self._settings, self._total = Decoding(config.image_size, config.channels), total
        self._main_process = os.getpid()
        self._done, self._next_tick = 0, 0.0

    def setup(self) -> None:
        """Silence Pillow in this worker's process."""
        silence_pillow()

    def process(self, chunk: Chunk) -> Iterator[Any]:
        """Examine the images of a chunk. Resizing comes before the shuffle, which then moves small images only."""
        count = 0
        for image in read_chunk(chunk):
            self._tell()
            yield self._examine(image)
            count += 1
        yield beam.pvalue.TaggedOutput("read", count)

    def _examine(self, image: RawImage | Unread) -> Any:
        if isinstance(image, Unread):
            return beam.pvalue.TaggedOutput("rejected", (image.id, image.reason, image.detail))
        try:
            decoded = decode(image.content, self._settings)
        except UnreadableImageError as error:
            return beam.pvalue.TaggedOutput("rejected", (image.id, error.reason, error.detail))
        return decoded.digest, (image.id, image.label, image.split, decoded.pixels)

    def _tell(self) -> None:
        self._done += 1
        if time.monotonic() >= self._next_tick and os.getpid() == self._main_process:
            if self._next_tick:
                tick(min(self._done, self._total), self._total, "images decoded")
            self._next_tick = time.monotonic() + SECONDS_BETWEEN_TICKS


def one_of_equals(equals: tuple[bytes, Iterable[Candidate]], config: IngestConfig) -> Iterator[Any]:
    """Keep one of equal images: yields (ShardKey, ShardItem), and the number of those dropped to `duplicates`."""
    digest, candidates = equals
    (id, label, forced, pixels), dropped = choose(candidates)
    if dropped:
        yield beam.pvalue.TaggedOutput("duplicates", dropped)
    shape = (config.image_size, config.image_size, config.channels)
    example = encode_example(Record(np.frombuffer(pixels, np.uint8).reshape(shape), label, id))
    split = forced or split_of(digest, config.eval_fraction)
    yield (split, shard_of(digest, config.shards)), (digest, label, example)


def choose(candidates: Iterable[Candidate]) -> tuple[Candidate, int]:
    """Return the image to keep and the number of those dropped: one held out goes first, then the smallest id."""
    # What is in both splits stays held out, or the model would be scored on images that it was trained on.
    ordered = sorted(candidates, key=lambda candidate: (candidate[2] != "eval", candidate[0]))
    return ordered[0], len(ordered) - 1


def split_of(digest: bytes, eval_fraction: float) -> str:
    """Return the split of an image: a function of its pixels alone, so it never moves when others come or go."""
    return "eval" if int.from_bytes(digest[:8], "big") < eval_fraction * 2**64 else "train"


def shard_of(digest: bytes, shards: int) -> int:
    """Return the index of an image's shard, from other bytes of the digest than its split."""
    return int.from_bytes(digest[8:16], "big") % shards


def shard_keys(shards: int) -> list[ShardKey]:
    """Return split and index of every shard: all are written, an empty one too."""
    return [(split, index) for split in SPLITS for index in range(shards)]


def write_shard(shard: tuple[ShardKey, Iterable[ShardItem]], folder: Path, shards: int) -> Iterator[Count]:
    """Write one shard in the order of the digests; yields the counts of its records, by split and by label."""
    (split, index), unordered = shard
    items = sorted(item for item in unordered if item[0])
    file = folder / shard_name(split, index, shards)
    with writing(file.name):
        temporary = file.with_name(f".{file.name}.{uuid4().hex[:8]}.tmp")
        written = write_tfrecord(temporary, (example for _, _, example in items))
        temporary.replace(file)
    yield split, written
    for _, label, _ in items:
        yield f"{split} label {label}", 1


def write_quarantine(gathered: tuple[int, Iterable[list[Rejected]]], folder: Path) -> Iterator[Count]:
    """Write quarantine.jsonl, sorted by id; yields the number of its lines."""
    rejected = sorted(item for items in gathered[1] for item in items)
    entries = [{"id": id, "reason": reason, "detail": detail} for id, reason, detail in rejected]
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    write_text(folder / QUARANTINE_FILE, "".join(f"{line}\n" for line in lines))
    yield "quarantined", len(lines)


def write_counts(gathered: tuple[int, Iterable[list[Count]]], folder: Path) -> None:
    """Write the sum of all counts of the same name as counts.json, for the process that started the pipeline."""
    sums: dict[str, int] = {}
    for name, number in (count for counts in gathered[1] for count in counts):
        sums[name] = sums.get(name, 0) + number
    write_text(folder / COUNTS_FILE, json.dumps(sums))
