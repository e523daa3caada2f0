"""Listing images in .tar, .tar.gz and .zip archives: nothing is unpacked to disk, and no name is used as a path.

A chunk of a .tar or .zip holds the offsets of its members. A .tar.gz can only be read from its beginning, so it is a
single chunk for one worker. Python's zipfile lists a .zip; it needs 0.7 kB of memory a member while it does.
"""

from __future__ import annotations

import gzip
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from components.common.addresses import remote_errors, suffix_in
from components.common.errors import DataRejectedError, first_line
from components.common.progress import say
from components.ingest.sources.archive_members import KINDS, LOCAL_HEADER, OVERLAPPING, UNSAFE, archive_opened, cannot_open
from components.ingest.sources.chunks import ChunkPacker, Reader, digest_number, folder_label
from components.ingest.sources.files import read_up_to
from components.ingest.sources.tar_archive import DamagedArchiveError, TarMember, tar_members

END_BYTES, END64_BYTES = 22, 76  # the records at the end of a .zip
MAX_GZIP_RATIO = 200
UNSUSPICIOUS_BYTES = 64 * 2**20  # a small archive may have any ratio
LISTING_ERRORS = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error, EOFError)  # of zipfile


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
        parts = [part for part in stored_name.split(b"/") if part not in (b"", b".")]
        unsafe = bool(re.match(rb"[/\\]|[A-Za-z]:", stored_name)) or b".." in re.split(rb"[/\\]", stored_name)
        if not unsafe and any(part.startswith(b".") for part in parts):
            return
        fault = UNSAFE if unsafe else fault
        name = self._unique(stored_name if unsafe else b"/".join(parts))
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
    declared = _declared_members(stream, packer.size)  # first: zipfile would report a failed request as a damaged archive
    try:
        with zipfile.ZipFile(stream) as archive:
            members, directory_start = archive.filelist, archive.start_dir
    except LISTING_ERRORS as error:
        raise DamagedArchiveError(first_line(error)) from None
    if declared not in (len(members), len(members) % 2**16):
        raise DamagedArchiveError(f"its directory has {len(members):,} members, {declared:,} were written")
    starts = sorted(member.header_offset for member in members)
    shared = {start for start, following in pairwise(starts) if start == following}
    limits = dict(zip(starts, [*starts, directory_start][1:], strict=True))
    for member in members:
        offset, packed, size = member.header_offset, member.compress_size, member.file_size
        if min(offset, packed, size) < 0 or max(offset, packed, size) >= 2**62:
            raise DamagedArchiveError("its directory contains impossible sizes")
        if member.volume not in (0, 0xFFFF):
            raise DamagedArchiveError("it is one part of several")
        # zipfile decodes names; the stored bytes are the same in every Python version and locale.
        name = member.orig_filename.encode("utf-8" if member.flag_bits & 0x800 else "cp437")
        if name.endswith(b"/"):
            continue
        overlaps = offset in shared or offset + LOCAL_HEADER.size + len(name) + packed > limits[offset]
        fault = OVERLAPPING if overlaps else KINDS.index(_zip_kind(member))
        packer.add(name, size, (offset, packed, size, member.CRC, member.compress_type, member.flag_bits & 1), fault)
    return packer.reader()


def _declared_members(stream: Any, size: int) -> int:
    """Return the number of members at the end of a .zip. zipfile ignores it, so a damaged directory could hide members."""
    start = max(size - 2**16 - END_BYTES - END64_BYTES, 0)
    stream.seek(start)
    tail = read_up_to(stream, size - start)
    end = max(tail.rfind(b"PK\5\6"), 0)
    end64 = tail[max(end - END64_BYTES, 0) : end]
    return int.from_bytes(end64[32:40] if end64[-20:].startswith(b"PK\6\7") else tail[end + 10 : end + 12], "little")


def _zip_kind(member: zipfile.ZipInfo) -> str:
    """Return the kind of a member, from the Unix mode in its attributes."""
    kind = stat.S_IFMT(member.external_attr >> 16) if member.create_system == 3 else 0
    return "file" if kind in (0, stat.S_IFREG) else "link" if kind == stat.S_IFLNK else "special"
