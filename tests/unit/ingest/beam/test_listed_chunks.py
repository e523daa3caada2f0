"""A chunk is read back from the listing as it was, without pickle."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.common.store import Folder
from components.ingest.beam.listed_chunks import CHUNKS_PER_FILE, read_listed_chunk, write_chunks
from components.ingest.sources.chunks import Chunk, ChunkPacker


def packed(names: list[bytes], *head: object) -> list[Chunk]:
    packer = ChunkPacker(*head)
    for number, name in enumerate(names):
        packer.add(name, 10, (number, 2**62), label=f"label {number % 3}")
    return packer.reader().chunks


@pytest.mark.parametrize("count", [1, CHUNKS_PER_FILE, CHUNKS_PER_FILE + 1, 3 * CHUNKS_PER_FILE])
def test_chunks_are_read_back(count: int, tmp_path: Path) -> None:
    chunks = packed([b"folder/\xff\n'%d.png" % number for number in range(256 * count)], "files", b"/r\xe9\n", 2**28)
    assert len(chunks) == count
    store = Folder(tmp_path)
    write_chunks(store, chunks)
    assert [read_listed_chunk(store, number) for number in range(count)] == chunks
    assert len(store.names()) == -(-count // CHUNKS_PER_FILE)


def test_values_of_other_sources(tmp_path: Path) -> None:
    chunks: list[Chunk] = [("digits",), ("tfrecord", "/data/\udce9 €.tfrecord", "eval", True, b"\0", b"", b"", b"\n")]
    write_chunks(Folder(tmp_path), chunks)
    assert [read_listed_chunk(Folder(tmp_path), number) for number in range(2)] == chunks
