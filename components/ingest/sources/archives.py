"""Listing images in .tar, .tar.gz and .zip archives: nothing is unpacked to disk, and no name is used as a path.

A chunk of a .tar or .zip holds the offsets of its members. A .tar.gz can only be read from its beginning, so it is a
single chunk for one worker.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from components.common.addresses import remote_errors, suffix_in
from components.common.errors import DataRejectedError, first_line
from components.common.progress import say
from components.ingest.sources.archive_members import KINDS, OVERLAPPING, UNSAFE, archive_opened, cannot_open
from components.ingest.sources.chunks import ChunkPacker, Reader, digest_number, folder_label
from components.ingest.sources.tar_archive import DamagedArchiveError, TarMember, tar_members
from components.ingest.sources.zip_directory import find_directory, overlapping, zip_members

MAX_GZIP_RATIO = 200
UNSUSPICIOUS_BYTES = 64 * 2**20  # a small archive may have any ratio
# A name that is hidden, leads out of the archive, or is not in its simplest form.
ODD_NAME = re.compile(rb"[./\\]|[A-Za-z]:|.*?(//|[/\\]\.)", re.DOTALL)


def open_archive(location: str, max_bytes: int, labels_from_folders: bool) -> Reader:
    """Return the reader of an archive: a local path or a URL.

    With `labels_from_folders`, the label of a member is the name of its folder. Raises ConfigError when the archive cannot
    be opened, DataRejectedError when it is damaged (members behind the damage could not be counted) or unpacks to too much.
    """
    kind = next((kind for kind in ("zip", "tar") if suffix_in(location, (f".{kind}",))), "tar.gz")
    with archive_opened(location) as (stream, size, stamp):
        packer = _MemberPacker((kind, location, size, stamp, max_bytes), labels_from_folders)
        try:
            return {"zip": _list_zip, "tar": _list_tar, "tar.gz": _list_tar_gz}[kind](packer, stream)
        except (DamagedArchiveError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataRejectedError(
                f"{location} is damaged: {first_line(error)}.", "Create or download it again: images could be missing."
            ) from None
        except remote_errors(ValueError) as error:
            raise cannot_open(location, error) from None


class _MemberPacker:
    """Packs the members of an archive into chunks, each under a unique name without "./"."""

    def __init__(self, head: tuple[str, str, int, int, int], labels_from_folders: bool) -> None:
        kind, self.location, self.size, _, self._max_bytes = head
        self._labels_from_folders = labels_from_folders
        self._packer = ChunkPacker(*head, whole=kind == "tar.gz")
        self._seen: set[int] = set()  # digests take half the memory of the names
        self.reader = self._packer.reader

    def add(self, stored_name: bytes, size: int, numbers: tuple[int, ...], fault: int) -> None:
        """Add a member unless it is hidden; `fault` is an index into FAULTS, 0 for a member that can be read."""
        name = stored_name
        if ODD_NAME.match(stored_name):
            parts = [part for part in stored_name.split(b"/") if part not in (b"", b".")]
            unsafe = bool(re.match(rb"[/\\]|[A-Za-z]:", stored_name)) or b".." in re.split(rb"[/\\]", stored_name)
            if not unsafe and any(part.startswith(b".") for part in parts):
                return
            name, fault = (stored_name, UNSAFE) if unsafe else (b"/".join(parts), fault)
        name = self._unique(name)
        label = folder_label(name) if self._labels_from_folders else ""
        self._packer.add(name, 0 if fault else min(size, self._max_bytes), (*numbers, fault), label)

    def _unique(self, name: bytes) -> bytes:
        unique, number = name, 1
        while (digest := digest_number(unique)) in self._seen:
            number += 1
            unique = name + b"#%d" % number
        self._seen.add(digest)
        return unique


def _list_tar(packer: _MemberPacker, stream: Any) -> Reader:
    def within(end: int) -> None:
        if end > packer.size:
            raise DamagedArchiveError(f"a member ends at byte {end:,}, the file at byte {packer.size:,}")

    return _packed_tar(packer, tar_members(stream, within))


def _list_tar_gz(packer: _MemberPacker, stream: Any) -> Reader:
    def plausible(end: int) -> None:
        if end > MAX_GZIP_RATIO * packer.size + UNSUSPICIOUS_BYTES:
            raise DataRejectedError(
                f"{packer.location} has {packer.size:,} bytes and unpacks to at least {end:,},"
                f" more than the allowed ratio of {MAX_GZIP_RATIO}.",
                "If you trust it, unpack it and name the folder.",
            )

    say(f"{PurePosixPath(packer.location).name} is read by one worker; a .zip or .tar can be read by all workers")
    with gzip.GzipFile(fileobj=stream) as unpacked:
        return _packed_tar(packer, tar_members(unpacked, plausible))


def _packed_tar(packer: _MemberPacker, members: Iterator[TarMember]) -> Reader:
    for member in members:
        packer.add(member.name, member.size, (member.offset, member.size), KINDS.index(member.kind))
    return packer.reader()


def _list_zip(packer: _MemberPacker, stream: Any) -> Reader:
    directory = find_directory(stream, packer.size)
    overlaps = overlapping(stream, directory).tolist()
    for member, overlap in zip(zip_members(stream, directory), overlaps, strict=True):
        if not member.name.endswith(b"/"):
            fault = OVERLAPPING if overlap else KINDS.index(member.kind)
            numbers = (member.offset, member.packed_size, member.size, member.crc, member.method, member.encrypted)
            packer.add(member.name, member.size, numbers, fault)
    return packer.reader()
