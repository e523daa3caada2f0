"""The members of .tar, .tar.gz and .zip archives, read from the places that a chunk carries."""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from components.common.addresses import find_filesystem, is_address, remote_errors, size_of, stamp_of
from components.common.errors import ConfigError, first_line
from components.ingest.sources.chunks import HEAD_BYTES, CannotReadError, RawImage, Row, Unread, rows
from components.ingest.sources.files import OPEN_FLAGS, changed, read_up_to, refuse_irregular, refuse_size
from components.ingest.sources.zip_archive import ZipMember, read_member

# Why a member is not read, by its number in a chunk; 0: it is.
FAULTS = (
    ("", ""),
    ("link", "links in archives are not followed"),
    ("not a regular file", "a pipe or device"),
    ("unsupported archive member", "a file with holes (sparse)"),
    ("unsafe name", "it would lead out of the archive"),
    ("overlapping members", "it shares bytes with another member"),
)
KINDS = ("file", "link", "special", "sparse")
UNSAFE, OVERLAPPING = 4, 5

Opened = tuple[Any, int, int]  # a stream that can seek, size and stamp of the archive


@contextlib.contextmanager
def archive_opened(location: str) -> Iterator[Opened]:
    """Open an archive; gives the stream, its size and its stamp. Raises ConfigError."""
    try:
        stream, size, stamp = _open_remote(location) if is_address(location) else _open_local(location)
    except CannotReadError as error:
        raise ConfigError(f"{location} is {error.detail}, no archive.", "Name an archive, a folder or a pattern.") from None
    except remote_errors() as error:
        raise cannot_open(location, error) from None
    with stream:
        yield stream, size, stamp


def _open_local(path: str) -> Opened:
    refuse_irregular(os.stat(path))
    stream = open(os.open(path, OPEN_FLAGS), "rb")  # noqa: SIM115  # the caller closes it
    status = os.fstat(stream.fileno())
    return stream, status.st_size, status.st_mtime_ns


def _open_remote(address: str) -> Opened:
    filesystem, path = find_filesystem(address)
    info = filesystem.info(path)
    return filesystem.open(path, "rb"), size_of(info), stamp_of(info)


def cannot_open(location: str, error: BaseException) -> ConfigError:
    """Return the error of an archive that is not there or may not be read."""
    return ConfigError(f"{location} cannot be read: {first_line(error)}.", "See that it is there and yours to read.")


def read_tar_members(location: str, size: int, stamp: int, max_bytes: int, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read the members of a chunk of a .tar; a row's numbers are offset, size and fault."""

    def content(stream: Any, row: Row) -> bytes:
        offset, length, _ = row.numbers
        stream.seek(offset)
        refuse_size(length, max_bytes, stream)
        return _exactly(stream, length)

    return _read_members(location, size, stamp, packed, content)


def read_tar_gz_members(location: str, size: int, stamp: int, max_bytes: int, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read all members of a .tar.gz, one after the other; a row's numbers are offset, size and fault."""
    unpacked: list[gzip.GzipFile] = []

    def content(stream: Any, row: Row) -> bytes:
        if not unpacked:
            unpacked.append(gzip.GzipFile(fileobj=stream))
        offset, length, _ = row.numbers
        unpacked[0].seek(offset)
        refuse_size(length, max_bytes, unpacked[0])
        return _exactly(unpacked[0], length)

    return _read_members(location, size, stamp, packed, content)


def read_zip_members(location: str, size: int, stamp: int, max_bytes: int, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read the members of a chunk of a .zip; a row's numbers are those of ZipMember, and its fault."""

    def content(stream: Any, row: Row) -> bytes:
        offset, packed_size, length, crc, method, encrypted, _ = row.numbers
        member = ZipMember(row.name, offset, packed_size, length, crc, method, bool(encrypted), "file")
        return read_member(stream, member, max_bytes)

    return _read_members(location, size, stamp, packed, content)


def _exactly(stream: Any, length: int) -> bytes:
    content = read_up_to(stream, length)
    if len(content) < length:
        raise CannotReadError("damaged archive member", f"{len(content):,} of {length:,} bytes", content[:HEAD_BYTES])
    return content


def _read_members(
    location: str, size: int, stamp: int, packed: tuple[bytes, ...], content: Callable[[Any, Row], bytes]
) -> Iterator[RawImage | Unread]:
    """Yield an item for each row; when the archive is gone or another than was listed, all rows are Unread."""
    with contextlib.ExitStack() as stack:
        try:
            stream, size_now, stamp_now = stack.enter_context(archive_opened(location))
            if (size_now, stamp_now) != (size, stamp):
                raise changed(size, size_now, b"")
        except (ConfigError, CannotReadError) as error:
            gone = CannotReadError("unreadable file", error.problem) if isinstance(error, ConfigError) else error
            yield from (row.unread(gone) for row in rows(*packed))
            return
        for row in rows(*packed):
            try:
                if row.numbers[-1]:
                    raise CannotReadError(*FAULTS[row.numbers[-1]])
                item = RawImage(row.id, row.label, row.split, content(stream, row))
                _refuse_changed(stream, size, stamp)
            except CannotReadError as error:
                yield row.unread(error)
            except remote_errors(EOFError, zlib.error) as error:
                yield row.unread(CannotReadError("damaged archive member", first_line(error)))
            else:
                yield item


def _refuse_changed(stream: Any, size: int, stamp: int) -> None:
    """Raise CannotReadError when a local archive was written to while a member was read; addresses are asked only once."""
    with contextlib.suppress(AttributeError, OSError):  # what fsspec opens has no descriptor
        status = os.fstat(stream.fileno())
        if (status.st_size, status.st_mtime_ns) != (size, stamp):
            raise changed(size, status.st_size, b"")
