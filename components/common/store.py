"""Where processes share files: a folder (of a disk, a network disk, a mounted bucket) or a bucket's URL, such as gs://bucket/x.

Two operations carry correctness, and both stores have them:

- `write`: a file appears under its name as a whole or not at all. In a folder it is renamed into place; where a rename is a
  copy and a removal (gcsfuse), the copy appears as a whole. In a bucket an object exists once its upload has ended.
- `create`: of all processes that create the same name, exactly one succeeds. In a folder by a hard link, or, where there are
  none (gcsfuse), by creating the file exclusively: gcsfuse uploads it on the condition that no such object exists.

What several processes change together is a sequence of numbered files, each created once (numbered.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast
from uuid import uuid4

from components.common.addresses import find_filesystem, is_address, joined, local_path, remote_errors
from components.common.errors import ArtifactError, UnreachableError, first_line

MAX_OPEN_FILES = 200  # of one worker
READ_AHEAD_BYTES = 1 << 20
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # a file that is being written, or that a killed process left
# Of the file systems without hard links: gcsfuse answers EPERM, others one of these.
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# The schemes of file systems that can create an object on the condition that none of that name exists. Not all servers of
# s3:// can: `create` finds out.
CREATING_SCHEMES = ("gs", "gcs", "s3", "memory")
CREATE_ATTEMPTS = 5  # S3 answers ConditionalRequestConflict to one of two simultaneous requests, which must then be repeated

Span = tuple[str, int, int]  # name of a file, first byte, number of bytes
ReadSpan = Callable[[str, int, int], bytes]


def check_creates(location: str) -> str:
    """Return a location unless it is a URL without `create`. Raises ValueError with the cure."""
    scheme, separator, _ = location.partition("://")
    if separator and scheme not in (*CREATING_SCHEMES, "file"):
        raise ValueError(
            f"{scheme}:// cannot create a file on the condition that it does not exist yet, which concurrent runs need; "
            "use a folder, a gs:// or an s3:// URL"
        )
    return location


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
    """A store in a folder that all processes see. Its errors are ArtifactError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)
        self._has_links = True

    def write(self, name: str, blocks: Iterable[bytes], *, sync: bool = False) -> int:
        """Write a file under a temporary name and rename it, with `sync` durably; return its size in bytes."""
        with writing(str(self.path / name)), self._temporary(name) as temporary:
            with temporary.open("wb") as stream:
                stream.writelines(blocks)
                size = stream.tell()
                if sync:
                    stream.flush()
                    os.fsync(stream.fileno())
            temporary.replace(self.path / name)
        return size

    def create(self, name: str, content: bytes) -> bool:
        """Create a file unless one of this name exists; return whether this call created it."""
        file = self.path / name
        with writing(str(file)), self._temporary(name) as temporary:
            if not self._has_links:
                return _create_exclusively(file, content)
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            try:
                file.hardlink_to(temporary)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                self._has_links = False
                return _create_exclusively(file, content)
        return True

    @contextlib.contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        """Yield the path of a temporary file beside a file, in a folder that exists; remove what is left of it."""
        file = self.path / name
        temporary = file.with_name(f".{file.name}.{uuid4().hex[:8]}.tmp")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        """Return the content of a small file. Raises FileNotFoundError."""
        with self._reading(name):
            return (self.path / name).read_bytes()

    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open a file for reading. Raises FileNotFoundError."""
        return (self.path / name).open("rb")

    def size(self, name: str) -> int:
        """Return the size of a file in bytes. Raises FileNotFoundError."""
        return (self.path / name).stat().st_size

    def names(self, folder: str = "") -> set[str]:
        """Return the names of the files in a folder, not of those below. A folder that does not exist is empty."""
        try:
            with self._reading(folder):
                return {name for name in os.listdir(self.path / folder) if not TEMPORARY.fullmatch(name)}  # noqa: PTH208 - no stat
        except FileNotFoundError:
            return set()

    def files(self, folder: str = "") -> dict[str, int]:
        """Return the size in bytes of each file in a folder and below, by its name in the store."""
        found: dict[str, int] = {}
        with self._reading(folder):
            for parent, _, names in os.walk(self.path / folder):  # it ignores folders that are removed meanwhile
                for file in (Path(parent) / name for name in names if not TEMPORARY.fullmatch(name)):
                    with contextlib.suppress(FileNotFoundError):
                        found[file.relative_to(self.path).as_posix()] = file.stat().st_size
        return found

    @contextlib.contextmanager
    def spans(self, spans: Iterable[Span]) -> Iterator[ReadSpan]:  # noqa: ARG002
        """Yield a function that reads any of these spans; of too many open files the least recently used is closed."""
        opened: dict[str, int] = {}

        def read(name: str, first: int, count: int) -> bytes:
            descriptor = opened.pop(name, None)
            if descriptor is None:
                if len(opened) >= MAX_OPEN_FILES:
                    os.close(opened.pop(next(iter(opened))))
                descriptor = os.open(self.path / name, os.O_RDONLY)
            opened[name] = descriptor
            return os.pread(descriptor, count, first)

        try:
            yield read
        finally:
            for descriptor in opened.values():
                os.close(descriptor)

    def delete(self, name: str) -> None:
        """Remove a file, if it exists."""
        with writing(str(self.path / name)):
            (self.path / name).unlink(missing_ok=True)

    def remove(self, folder: str = "") -> None:
        """Remove a folder with all its files; without a name, the whole store."""
        with writing(str(self.path / folder)), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            shutil.rmtree(self.path / folder)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn an OSError while `name` is read, except FileNotFoundError, into an ArtifactError."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path / name)) from None
        except OSError as error:
            raise UnreachableError(f"Cannot read {self.path / name}: {first_line(error)}.", "Check the disk.") from error


def _create_exclusively(file: Path, content: bytes) -> bool:
    """Create a file on a file system without hard links; return False if it exists, or if another process was first.

    gcsfuse uploads the file when it is closed, and answers ESTALE if the object exists by then: another process has created it,
    or gcsfuse repeated an upload whose answer was lost. The content is written at once, so that a killed process leaves a whole
    file or an empty one.
    """
    try:
        with file.open("xb") as stream:
            stream.write(content)
    except OSError as error:
        if error.errno == errno.ESTALE:
            os.listdir(file.parent)  # noqa: PTH208 - gcsfuse forgets what it knew of the file
            return file.read_bytes() == content
        if error.errno == errno.EEXIST:
            return False
        raise
    return True


class Bucket:
    """The same behind a URL that fsspec can open."""

    def __init__(self, url: str) -> None:
        self.location = url.rstrip("/")
        self._files, self._root = find_filesystem(self.location)
        self._is_known_to_create = not self.location.startswith("s3://")

    def write(self, name: str, blocks: Iterable[bytes], *, sync: bool = False) -> int:  # noqa: ARG002
        """Upload an object, and return its size in bytes."""
        content = b"".join(blocks)
        with self._translated("write", name):
            self._files.pipe_file(f"{self._root}/{name}", content)
        return len(content)

    def create(self, name: str, content: bytes) -> bool:
        """Create an object unless one of this name exists; return whether the object is ours.

        Raises ArtifactError also when the server replaces objects although it was asked not to.
        """
        with self._translated("write", name):
            if not self._create(f"{self._root}/{name}", content):
                # The client repeats a request whose answer was lost, and then finds the object that the first one created.
                return self.read(name) == content
            if not self._is_known_to_create and self._create(f"{self._root}/{name}", content):
                raise ArtifactError(
                    f"{self.location} replaces objects although it is asked not to (If-None-Match), so concurrent runs would"
                    " overwrite each other's files.",
                    "Use S3, a server that has this condition, a gs:// URL or a folder.",
                )
        self._is_known_to_create = True
        return True

    def _create(self, path: str, content: bytes) -> bool:
        for attempt in range(1, CREATE_ATTEMPTS + 1):
            try:
                self._files.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if "ConditionalRequestConflict" not in repr(error.__cause__) or attempt == CREATE_ATTEMPTS:
                    raise
            else:
                break
        return True

    def read(self, name: str) -> bytes:
        """Return the content of a small object. Raises FileNotFoundError."""
        with self._translated("read", name):
            return cast(bytes, self._files.cat_file(f"{self._root}/{name}"))

    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open an object for reading. Raises FileNotFoundError."""
        with self._translated("read", name):
            stream = self._files.open(f"{self._root}/{name}", "rb", block_size=READ_AHEAD_BYTES)
            return cast("contextlib.AbstractContextManager[BinaryIO]", stream)

    def size(self, name: str) -> int:
        """Return the size of an object in bytes. Raises FileNotFoundError."""
        with self._translated("read", name):
            return int(self._files.info(f"{self._root}/{name}")["size"])

    def names(self, folder: str = "") -> set[str]:
        """Return the names of the objects in a folder, not of those below. A folder that does not exist is empty."""
        try:
            with self._translated("read", folder):
                found = self._files.ls(f"{self._root}/{folder}".rstrip("/"), detail=False)
        except FileNotFoundError:
            self.files(folder)  # raises ArtifactError if it is the bucket that does not exist
            return set()
        return {str(path).rpartition("/")[2] for path in found}

    def files(self, folder: str = "") -> dict[str, int]:
        """Return the size in bytes of each object in a folder and below, by its name in the store."""
        with self._translated("list", folder):
            found = self._files.find(f"{self._root}/{folder}".rstrip("/"), detail=True)
        # An object whose name ends in a slash stands for a folder; gcsfuse and web consoles create some.
        files = {path.removeprefix(self._root).removeprefix("/"): info for path, info in found.items() if path[-1] != "/"}
        return {name: int(info["size"]) for name, info in files.items() if info["type"] == "file"}

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

    def delete(self, name: str) -> None:
        """Remove an object, if it exists."""
        with self._translated("remove", name), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    def remove(self, folder: str = "") -> None:
        """Remove all objects of a folder and below; without a name, of the whole store."""
        with self._translated("remove", folder), contextlib.suppress(FileNotFoundError):
            self._files.rm(f"{self._root}/{folder}".rstrip("/"), recursive=True)

    @contextlib.contextmanager
    def _translated(self, verb: str, name: str) -> Iterator[None]:
        """Turn errors of the file system into ArtifactError, except the FileNotFoundError of an object that is not there."""
        what = f"Cannot {verb} {self.location}/{name}"
        try:
            yield
        except FileNotFoundError as error:
            if verb in ("read", "remove"):
                raise
            bucket = self._root.partition("/")[0]  # only a bucket that does not exist makes these fail
            raise UnreachableError(f"{what}: there is no bucket {bucket}.", "Create it, or correct the URL.") from error
        except remote_errors() as error:
            raise UnreachableError(
                f"{what}: {first_line(error)}.",
                "Check the account of this process (gs://: gcloud auth application-default login; s3://: AWS_PROFILE or"
                " AWS_ACCESS_KEY_ID) and its permission to list, read, create and delete objects there.",
            ) from error


Store = Folder | Bucket
Location = Path | str  # of a store: a folder or a URL


def store_at(location: Location, *folders: str) -> Store:
    """Return the store at a path or URL, or in a folder of it, without touching it.

    Raises ConfigError for a URL that fsspec cannot open.
    """
    place = joined(location, *folders)
    return Bucket(place) if is_address(place) else Folder(Path(local_path(place)))
