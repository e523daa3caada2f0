"""The listing of a source in the store: files of a few chunks each, so that the Beam graph holds only their number."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from components.common.store import Store
from components.ingest.sources.chunks import Chunk

CHUNKS_PER_FILE = 16


def write_chunks(store: Store, chunks: Sequence[Chunk]) -> None:
    """Write all chunks of a source, a line each. Raises ArtifactError."""
    for first in range(0, len(chunks), CHUNKS_PER_FILE):
        lines = [ascii(chunk).encode() + b"\n" for chunk in chunks[first : first + CHUNKS_PER_FILE]]
        store.write(_name(first), lines)


def read_listed_chunk(store: Store, number: int) -> Chunk:
    """Return a chunk by its number, from 0. Raises ArtifactError."""
    line = store.read(_name(number)).split(b"\n")[number % CHUNKS_PER_FILE]
    chunk: Chunk = ast.literal_eval(line.decode())
    return chunk


def _name(number: int) -> str:
    return f"listing-{number // CHUNKS_PER_FILE:08d}.txt"
