"""Images in .tar, .tar.gz and .zip archives, read where they lie: nothing is unpacked to a disk, no name is ever a path.

A chunk of a .tar or .zip carries the places of its members. A .tar.gz can only be read from its beginning, so all of it
is one chunk, for one worker.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from components.errors import ConfigError, DataRejectedError
from components.ingest.addresses import find_filesystem, first_line, is_address, remote_errors, size_of, stamp_of, suffix_in
from components.ingest.chunks import HEAD_BYTES, CannotReadError, ChunkPacker, RawImage, Reader, Row, Unread, folder_label, rows
from components.ingest.files import OPEN_FLAGS, changed, read_up_to, refuse_irregular, refuse_size
from components.ingest.tar_archive import DamagedArchiveError, TarMember, tar_members
from components.ingest.zip_archive import LOCAL, ZipMember, find_directory, read_member, zip_members
from components.progress import say

MAX_GZIP_RATIO = 200
UNSUSPECTED_BYTES = 64 * 2**20
# Why a member is not read, by its number in a chunk; 0: it is.
FAULTS = (
    CannotReadError("", ""),
    CannotReadError("link", "links in archives are not followed"),
    CannotReadError("not a regular file", "a pipe or device"),
    CannotReadError("unsupported archive member", "a file with holes (sparse)"),
    CannotReadError("unsafe name", "it would lead out of the archive"),
    CannotReadError("overlapping members", "it shares bytes with another member"),
)
KINDS = ("file", "link", "special", "sparse")
UNSAFE, OVERLAPPING = 4, 5

Opened = tuple[Any, int, int]  # a stream that can seek, size and stamp of the archive


def open_archive(location: str, max_bytes: int, labels_from_folders: bool) -> Reader:
    """Return the reader of an archive: a path on this machine or an address.

    Labels are the names of the folders in the archive when asked for. Raises ConfigError when it cannot be opened,
    DataRejectedError when it is damaged, so that what follows the damage could not be counted, or unpacks too much.
    """
    listers = {".zip": _list_zip, ".tar": _list_tar}
    lister = next((listers[suffix] for suffix in listers if suffix_in(location, (suffix,))), _list_tar_gz)
    with archive_opened(location) as (stream, size, stamp):
        try:
            packer = lister(location, stream, size, stamp, max_bytes, labels_from_folders)
        except (DamagedArchiveError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataRejectedError(
                f"{location} is damaged: {first_line(error)}.", "Make or fetch it again: images could be missing."
            ) from None
        except remote_errors() as error:
            raise _cannot_open(location, error) from None
    return packer.reader()


@contextlib.contextmanager
def archive_opened(location: str) -> Iterator[Opened]:
    """Open an archive; gives the stream, its size and its stamp. Raises ConfigError."""
    try:
        stream, size, stamp = _open_remote(location) if is_address(location) else _open_local(location)
    except CannotReadError as error:
        raise ConfigError(f"{location} is {error.detail}, no archive.", "Name an archive, a folder or a pattern.") from None
    except remote_errors() as error:
        raise _cannot_open(location, error) from None
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


def _cannot_open(location: str, error: BaseException) -> ConfigError:
    return ConfigError(f"{location} cannot be read: {first_line(error)}.", "See that it is there and yours to read.")


class _Names:
    """Gives each member its name in a dataset: without "./", and unlike that of any member before it."""

    def __init__(self, labels_from_folders: bool) -> None:
        self._labels_from_folders = labels_from_folders
        self._seen: set[int] = set()  # of digests: half the memory of the names

    def of(self, told: bytes) -> tuple[bytes, bool] | None:
        """Return the name and whether it is safe; None for a hidden member."""
        parts = [part for part in told.split(b"/") if part not in (b"", b".")]
        unsafe = told.startswith((b"/", b"\\")) or bool(re.match(rb"[A-Za-z]:", told)) or b".." in re.split(rb"[/\\]", told)
        if not unsafe and any(part.startswith(b".") for part in parts):
            return None
        name = told if unsafe else b"/".join(parts)
        unique, number = name, 1
        while (
            digest := _digest(unique)
        ) in self._seen:  # a later member of the same name is listed too: nothing is lost unseen
            number += 1
            unique = name + b"#%d" % number
        self._seen.add(digest)
        return unique, not unsafe

    def label(self, name: bytes) -> str:
        return folder_label(name) if self._labels_from_folders else ""


def _list_tar(location: str, stream: Any, size: int, stamp: int, max_bytes: int, labels_from_folders: bool) -> ChunkPacker:
    def within(end: int) -> None:
        if end > size:
            raise DamagedArchiveError(f"a member ends at byte {end:,}, the file at {size:,}")

    packer = ChunkPacker("tar", location, size, stamp, max_bytes)
    return _packed_tar(packer, tar_members(stream, within), max_bytes, labels_from_folders)


def _list_tar_gz(location: str, stream: Any, size: int, stamp: int, max_bytes: int, labels_from_folders: bool) -> ChunkPacker:
    def plausible(end: int) -> None:
        if end > MAX_GZIP_RATIO * size + UNSUSPECTED_BYTES:
            raise DataRejectedError(
                f"{location} has {size:,} bytes and unpacks to {end:,} or more, {MAX_GZIP_RATIO} times as much are allowed.",
                "If you trust it, unpack it and name the folder.",
            )

    say(f"{PurePosixPath(location).name} can only be read from its beginning, by one worker; a .zip or .tar is read by all")
    packer = ChunkPacker("tar.gz", location, size, stamp, max_bytes, whole=True)
    with gzip.GzipFile(fileobj=stream) as unpacked:
        return _packed_tar(packer, tar_members(unpacked, plausible), max_bytes, labels_from_folders)


def _packed_tar(packer: ChunkPacker, members: Iterator[TarMember], max_bytes: int, labels_from_folders: bool) -> ChunkPacker:
    names = _Names(labels_from_folders)
    for member in members:
        if (named := names.of(member.name)) is not None:
            name, safe = named
            fault = KINDS.index(member.kind) if safe else UNSAFE
            work = 0 if fault else min(member.size, max_bytes)
            packer.add(name, work, (member.offset, member.size, fault), names.label(name))
    return packer


def _list_zip(location: str, stream: Any, size: int, stamp: int, max_bytes: int, labels_from_folders: bool) -> ChunkPacker:
    directory = find_directory(stream, size)
    starts = array("q", sorted(member.offset for member in zip_members(stream, directory)))
    starts.append(directory.start)
    names = _Names(labels_from_folders)
    packer = ChunkPacker("zip", location, size, stamp, max_bytes)
    for member in zip_members(stream, directory):
        if (named := names.of(member.name)) is not None:
            name, safe = named
            end = member.offset + LOCAL.size + len(member.name) + member.packed
            overlaps = end > starts[min(bisect_right(starts, member.offset), len(starts) - 1)] or _twice(starts, member.offset)
            fault = UNSAFE if not safe else OVERLAPPING if overlaps else KINDS.index(member.kind)
            work = 0 if fault else min(member.size, max_bytes)
            packer.add(name, work, (*member[1:6], int(member.encrypted), fault), names.label(name))
    return packer


def _digest(name: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")


def _twice(starts: array[int], offset: int) -> bool:
    place = bisect_right(starts, offset)
    return place > 1 and starts[place - 2] == offset


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
                    raise FAULTS[row.numbers[-1]]
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
