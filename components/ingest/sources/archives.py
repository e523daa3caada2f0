"""Images in .tar, .tar.gz and .zip archives, read where they lie: nothing is unpacked to a disk, no name is ever a path.

A chunk of a .tar or .zip carries the places of its members. A .tar.gz can only be read from its beginning, so all of it
is one chunk, for one worker.
"""

from __future__ import annotations

import gzip
import re
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from components.common.addresses import remote_errors, suffix_in
from components.common.errors import DataRejectedError, first_line
from components.common.progress import say
from components.ingest.sources.archive_members import KINDS, OVERLAPPING, UNSAFE, archive_opened, cannot_open
from components.ingest.sources.chunks import ChunkPacker, Reader, digest_number, folder_label
from components.ingest.sources.tar_archive import DamagedArchiveError, TarMember, tar_members
from components.ingest.sources.zip_archive import LOCAL, find_directory, zip_members

MAX_GZIP_RATIO = 200
UNSUSPECTED_BYTES = 64 * 2**20


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
            raise cannot_open(location, error) from None
    return packer.reader()


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
        # A later member of the same name is listed too: nothing is lost unseen.
        while (digest := digest_number(unique)) in self._seen:
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


def _twice(starts: array[int], offset: int) -> bool:
    place = bisect_right(starts, offset)
    return place > 1 and starts[place - 2] == offset
