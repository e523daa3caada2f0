"""Where workers leave files for one another: a folder that all of them see, or an address such as gs://bucket/folder.

A file appears whole under its name or not at all: in a folder because it is renamed into place, behind an address because
an object is there when its upload has ended. A worker may therefore write again what another has written: the content is
the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast
from uuid import uuid4

from components.common.addresses import find_filesystem, is_address, remote_errors
from components.common.artifacts import remove_directory
from components.common.errors import ArtifactError, first_line
from components.ingest.beam.worker_errors import writing

OPEN_FILES = 200  # that one worker holds open at a time
READ_AHEAD = 1 << 20

Span = tuple[str, int, int]  # name of a file, first byte, number of bytes
ReadPart = Callable[[str, int, int], bytes]


class Store(Protocol):
    """A folder of files that workers share; errors are ArtifactError."""

    def write(self, name: str, blocks: Iterable[bytes]) -> int:
        """Write a file, whole or not at all, and return its size in bytes."""

    def reading(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open a file to read. Raises FileNotFoundError where there is none."""

    def size(self, name: str) -> int:
        """Return the size of a file in bytes, -1 where there is none."""

    def names(self) -> set[str]:
        """Return the names of the files that are there."""

    def parts(self, spans: Iterable[Span]) -> contextlib.AbstractContextManager[ReadPart]:
        """Give a function that reads any of these parts of files."""

    def fetch(self, name: str, file: Path) -> None:
        """Put a file at a path of this machine; it may be gone from the store then."""

    def remove(self) -> None:
        """Remove the store with all its files."""


def store_at(location: str) -> Store:
    """Return the store at a path or an address; nothing is touched. Raises ConfigError for an address nobody knows."""
    return Bucket(location) if is_address(location) else Folder(Path(location))


class Folder:
    """A store in a folder of this machine, or of a disk that all workers mount."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, name: str, blocks: Iterable[bytes]) -> int:
        """Write under a temporary name and rename."""
        with writing(name):
            temporary = self._path / f".{name}.{uuid4().hex[:8]}.tmp"
            with temporary.open("wb") as stream:
                stream.writelines(blocks)
                size = stream.tell()
            temporary.replace(self._path / name)
        return size

    def reading(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open a file to read."""
        return (self._path / name).open("rb")

    def size(self, name: str) -> int:
        """Return the size of a file in bytes, -1 where there is none."""
        try:
            return (self._path / name).stat().st_size
        except FileNotFoundError:
            return -1

    def names(self) -> set[str]:
        """Return the names of the files that are there."""
        return {file.name for file in self._path.iterdir()}

    @contextlib.contextmanager
    def parts(self, spans: Iterable[Span]) -> Iterator[ReadPart]:  # noqa: ARG002
        """Read each part when it is asked for; the least recently used files are closed when too many are open."""
        opened: dict[str, int] = {}

        def read(name: str, first: int, count: int) -> bytes:
            descriptor = opened.pop(name, None)
            if descriptor is None:
                if len(opened) >= OPEN_FILES:
                    os.close(opened.pop(next(iter(opened))))
                descriptor = os.open(self._path / name, os.O_RDONLY)
            opened[name] = descriptor
            return os.pread(descriptor, count, first)

        try:
            yield read
        finally:
            for descriptor in opened.values():
                os.close(descriptor)

    def fetch(self, name: str, file: Path) -> None:
        """Move the file."""
        with writing(file.name):
            shutil.move(self._path / name, file)

    def remove(self) -> None:
        """Remove the folder."""
        remove_directory(self._path)


class Bucket:
    """A store behind an address that fsspec knows. The parts that are read of a file are fetched as one and held in memory."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        self._files, self._root = find_filesystem(self._address)

    def write(self, name: str, blocks: Iterable[bytes]) -> int:
        """Upload: the object is there when all of it has arrived."""
        content = b"".join(blocks)
        with self._told("write", name):
            self._files.pipe_file(self._path(name), content)
        return len(content)

    def reading(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open a file to read."""
        with self._told("read", name):
            stream = self._files.open(self._path(name), "rb", block_size=READ_AHEAD)
            return cast("contextlib.AbstractContextManager[BinaryIO]", stream)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes, -1 where there is none."""
        try:
            with self._told("read", name):
                return int(self._files.info(self._path(name))["size"])
        except FileNotFoundError:
            return -1

    def names(self) -> set[str]:
        """Return the names of the files that are there."""
        try:
            with self._told("list", ""):
                return {str(path).rpartition("/")[2] for path in self._files.ls(self._root, detail=False)}
        except FileNotFoundError:
            return set()

    @contextlib.contextmanager
    def parts(self, spans: Iterable[Span]) -> Iterator[ReadPart]:
        """Read of each file the one part that holds all that will be asked of it, all files at once."""
        bounds: dict[str, tuple[int, int]] = {}
        for name, first, count in spans:
            begin, end = bounds.get(name, (first, first))
            bounds[name] = min(begin, first), max(end, first + count)
        begins, ends = [begin for begin, _ in bounds.values()], [end for _, end in bounds.values()]
        paths = [self._path(name) for name in bounds]
        with self._told("read", "chunks"):
            found = self._files.cat_ranges(paths, begins, ends, on_error="raise") if paths else ()
        held = dict(zip(bounds, found, strict=True))

        def read(name: str, first: int, count: int) -> bytes:
            begin = first - bounds[name][0]
            return bytes(held[name][begin : begin + count])

        yield read

    def fetch(self, name: str, file: Path) -> None:
        """Download the file."""
        with self._told("read", name), writing(file.name):
            self._files.get_file(self._path(name), str(file))

    def remove(self) -> None:
        """Remove all objects of the store."""
        with self._told("remove", ""), contextlib.suppress(FileNotFoundError):
            self._files.rm(self._root, recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _told(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except remote_errors() as error:
            raise ArtifactError(
                f"Cannot {verb} {self._address}/{name}: {first_line(error)}.",
                "The account that runs this needs to read, write and remove objects there.",
            ) from error


def bytes_of(store: Store, name: str) -> bytes:
    """Return the content of a small file. Raises FileNotFoundError and ArtifactError."""
    with store.reading(name) as stream:
        content: Any = stream.read()
    return bytes(content)
