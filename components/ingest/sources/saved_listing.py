"""The listing of a folder in a file: a run lists its source once, for the keys of its steps, and ingest reads it here."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from components.common.errors import ArtifactError, first_line
from components.ingest.sources.listing import ListedFile

READ_BYTES = 1 << 16


def saved_while_listed(files: Iterator[ListedFile], file: Path) -> Iterator[ListedFile]:
    """Yield files, and write them to `file`: size, stamp and name of each, and a NUL, which no name contains."""
    with gzip.open(file, "wb", compresslevel=1) as stream:
        for each in files:
            stream.write(b"%d %d %s\0" % (each.size, each.stamp, each.name))
            yield each


def read_listing(file: Path) -> Iterator[ListedFile]:
    """Yield the files of a saved listing. Raises ArtifactError if it is damaged."""
    rest = b""
    try:
        with gzip.open(file, "rb") as stream:
            while block := stream.read(READ_BYTES):
                *entries, rest = (rest + block).split(b"\0")
                for entry in entries:
                    size, stamp, name = entry.split(b" ", 2)
                    yield ListedFile(name, int(size), int(stamp))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ArtifactError(
            f"The listing {file} cannot be read: {first_line(error)}.", f"Remove {file} and run again."
        ) from error
