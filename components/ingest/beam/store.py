"""Where workers share files: a folder that all of them see, or a URL such as gs://bucket/folder.

A file appears under its name as a whole or not at all: in a folder because it is renamed into place, in a bucket because an
object exists once its upload has ended. So a worker may write again what another has written: the content is the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast
from uuid import uuid4

from components.common.addresses import find_filesystem, is_address, remote_errors
from components.common.artifacts import remove_directory
from components.common.errors import ArtifactError, first_line

MAX_OPEN_FILES = 200  # of one worker
READ_AHEAD_BYTES = 1 << 20

Span = tuple[str, int, int]  # name of a file, first byte, number of bytes
ReadSpan = Callable[[str, int, int], bytes]


@contextlib.contextmanager
def writing(file: str) -> Iterator[None]:
    """Turn an OSError while a worker writes `file` into an ArtifactError."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"Cannot write {file}: {first_line(error)}.",
            "Free space or name a writable folder, for instance --set run.dir=DIR.",
        ) from error


class Folder:
    """A store in a folder of this machine, or of a disk that all workers mount. Its errors are ArtifactError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, name: str, blocks: Iterable[bytes]) -> int:
        """Write a file under a temporary name and rename it; return its size in bytes."""
        with writing(name):
            temporary = self._path / f".{name}.{uuid4().hex[:8]}.tmp"
            with temporary.open("wb") as stream:
                stream.writelines(blocks)
                size = stream.tell()
            temporary.replace(self._path / name)
        return size

    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open a file for reading. Raises FileNotFoundError."""
        return (self._path / name).open("rb")

    def size(self, name: str) -> int:
        """Return the size of a file in bytes. Raises FileNotFoundError."""
        return (self._path / name).stat().st_size

    def names(self) -> set[str]:
        """Return the names of the files."""
        return {file.name for file in self._path.iterdir()}

    @contextlib.contextmanager
    def spans(self, spans: Iterable[Span]) -> Iterator[ReadSpan]:  # noqa: ARG002
        """Yield a function that reads any of these spans; of too many open files the least recently used is closed."""
        opened: dict[str, int] = {}

        def read(name: str, first: int, count: int) -> bytes:
            descriptor = opened.pop(name, None)
            if descriptor is None:
                if len(opened) >= MAX_OPEN_FILES:
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
        """Move a file to a local path."""
        with writing(file.name):
            shutil.move(self._path / name, file)

    def remove(self) -> None:
        """Remove the folder with all its files."""
        remove_directory(self._path)


class Bucket:
    """The same behind a URL that fsspec can open; here `fetch` leaves the file in the store."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._files, self._root = find_filesystem(self._url)

    def write(self, name: str, blocks: Iterable[bytes]) -> int:
        """Upload an object, and return its size in bytes."""
        content = b"".join(blocks)
        with self._translated("write", name):
            self._files.pipe_file(f"{self._root}/{name}", content)
        return len(content)

    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open an object for reading. Raises FileNotFoundError."""
        with self._translated("read", name):
            stream = self._files.open(f"{self._root}/{name}", "rb", block_size=READ_AHEAD_BYTES)
            return cast("contextlib.AbstractContextManager[BinaryIO]", stream)

    def size(self, name: str) -> int:
        """Return the size of an object in bytes. Raises FileNotFoundError."""
        with self._translated("read", name):
            return int(self._files.info(f"{self._root}/{name}")["size"])

    def names(self) -> set[str]:
        """Return the names of the objects."""
        try:
            with self._translated("list", ""):
                return {str(path).rpartition("/")[2] for path in self._files.ls(self._root, detail=False)}
        except FileNotFoundError:
            return set()

    @contextlib.contextmanager
    def spans(self, spans: Iterable[Span]) -> Iterator[ReadSpan]:
        """Fetch, of all objects at once, the one range that covers the spans; yield a function that returns them."""
        bounds: dict[str, tuple[int, int]] = {}
        for name, first, count in spans:
            begin, end = bounds.get(name, (first, first))
            bounds[name] = min(begin, first), max(end, first + count)
        paths = [f"{self._root}/{name}" for name in bounds]
        begins, ends = [begin for begin, _ in bounds.values()], [end for _, end in bounds.values()]
        with self._translated("read", "chunks"):
            ranges = self._files.cat_ranges(paths, begins, ends, on_error="raise") if paths else ()
        content = dict(zip(bounds, ranges, strict=True))

        def read(name: str, first: int, count: int) -> bytes:
            begin = first - bounds[name][0]
            return bytes(content[name][begin : begin + count])

        yield read

    def fetch(self, name: str, file: Path) -> None:
        """Download an object to a local path."""
        with self._translated("read", name), writing(file.name):
            self._files.get_file(f"{self._root}/{name}", str(file))

    def remove(self) -> None:
        """Remove all objects of the store."""
        with self._translated("remove", ""), contextlib.suppress(FileNotFoundError):
            self._files.rm(self._root, recursive=True)

    @contextlib.contextmanager
    def _translated(self, verb: str, name: str) -> Iterator[None]:
        """Turn errors of the file system, except FileNotFoundError, into ArtifactError."""
        try:
            yield
        except FileNotFoundError:
            raise
        except remote_errors() as error:
            raise ArtifactError(
                f"Cannot {verb} {self._url}/{name}: {first_line(error)}.",
                "The account that runs this needs permission to read, write and delete objects there.",
            ) from error


Store = Folder | Bucket


def store_at(location: str) -> Store:
    """Return the store at a path or URL, without touching it. Raises ConfigError for a URL that fsspec cannot open."""
    return Bucket(location) if is_address(location) else Folder(Path(location))


def bytes_of(store: Store, name: str) -> bytes:
    """Return the content of a small file. Raises FileNotFoundError and ArtifactError."""
    with store.open(name) as stream:
        return stream.read()
