"""The Beam pipeline: read and decode chunks, drop duplicates, split and shard by hash, write, and count every image.

The result is the same on every runner, with any number of workers and any number of repeated attempts (tasks.py). Beam's own
file sinks break on runners that evaluate the graph more than once. Workers on other machines must see the chunk folder under
the same path, or it is a URL.

The graph is the same for any number of images: workers get numbers of chunks, and read the listing from the store
(listed_chunks.py). Nothing that grows with the source is collected under one key; what the shards write, the main process
merges as a stream (results.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from components.ingest.beam.chunk_files import PartSpan
from components.ingest.beam.listed_chunks import read_listed_chunk
from components.ingest.beam.quiet_beam import beam
from components.ingest.beam.tasks import (
    NO_PART,
    WorkerSettings,
    examine_chunk,
    near_duplicates_of,
    write_hashes_of,
    write_once,
)
from components.ingest.pixels.decode import prepare_pillow


def build(pipeline: Any, chunks: int, settings: WorkerSettings, max_bits: int = -1) -> None:
    """Add all steps to `pipeline`, which writes the shards, and for each its lists of omitted images and its counts.

    The store contains the listing with this number of chunks. Images whose perceptual hashes differ in at most `max_bits` bits
    count as duplicates too; -1: off.
    """
    numbers = pipeline | "Number of chunks" >> beam.Create([chunks]) | "Chunks" >> beam.FlatMap(chunk_numbers)
    examine = beam.ParDo(Examine(settings)).with_output_types(tuple[int, PartSpan])
    examined = numbers | "Spread chunks" >> beam.Reshuffle() | "Decode" >> examine.with_outputs("read", main="parts")
    # Empty shards are written too.
    no_part = beam.Create([(number, NO_PART) for number in range(settings.shards)]).with_output_types(tuple[int, PartSpan])
    parts = (examined.parts, pipeline | "All shards" >> no_part) | "Parts and shards" >> beam.Flatten()
    shards = {"parts": parts, "read": examined.read}
    if max_bits >= 0:
        hashed = parts | "Gather parts" >> beam.GroupByKey() | "Write hashes" >> beam.Map(write_hashes_of, settings)
        # Their number is needed only because it is known when all shards have written their hashes.
        written = hashed | "Count hashes" >> beam.combiners.Count.Globally()
        shards["near"] = written | "Near duplicates" >> beam.FlatMap(near_duplicates_of, settings, max_bits)
    _ = shards | "Shard" >> beam.CoGroupByKey() | "Write shards" >> beam.Map(write_once, settings)


def chunk_numbers(chunks: int) -> Iterator[int]:
    """Yield the numbers of all chunks."""
    yield from range(chunks)


class Examine(beam.DoFn):  # type: ignore[misc]  # Beam ships no types
    """Decode a chunk into its file: yields (shard, PartSpan), and to `read` how many images it read, under any shard."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def setup(self) -> None:
        """Prepare Pillow in the process of this worker."""
        prepare_pillow(self._settings.decoding.max_pixels)

    def process(self, number: int) -> Iterator[Any]:
        """Decode a chunk, unless an earlier attempt did."""
        file = examine_chunk(read_listed_chunk(self._settings.store, number), self._settings)
        yield from file.parts.items()
        yield beam.pvalue.TaggedOutput("read", (number % self._settings.shards, (number, file.read)))
