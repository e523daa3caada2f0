"""The directory of a .zip archive, read as a stream.

Not Python's zipfile, which keeps 0.7 kB for each member, 700 MB for a million images: test_archives.py compares the memory of
both. It also ignores the number of members at the end, so a damaged directory could hide some.
"""

from __future__ import annotations

import stat
import struct
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.ingest.sources.archive_members import LOCAL_HEADER
from components.ingest.sources.files import read_up_to
from components.ingest.sources.tar_archive import DamagedArchiveError

END = struct.Struct("<4s4H2LH")  # the last record of the archive, before its comment
END64_LOCATION = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s4B4H3L5H2L")
LONGEST_ENTRY_BYTES = ENTRY.size + 3 * 0xFFFF
BLOCK_BYTES = 2**20


class ZipDirectory(NamedTuple):
    """Where a directory begins and ends, the number of its members, and the number of bytes before the archive."""

    start: int
    end: int
    members: int
    shift: int


class ZipMember(NamedTuple):
    """A member: name as stored, offset of its header, packed and unpacked size, CRC, compression, encryption and kind."""

    name: bytes
    offset: int
    packed_size: int
    size: int
    crc: int
    method: int
    encrypted: int
    kind: str

    @property
    def end(self) -> int:
        """The offset at which the data ends, if its header has the name and no other fields."""
        return self.offset + LOCAL_HEADER.size + len(self.name) + self.packed_size


def find_directory(stream: Any, size: int) -> ZipDirectory:
    """Return where the directory of an archive of `size` bytes is. Raises DamagedArchiveError."""
    tail_start = max(size - END.size - 0xFFFF, 0)
    tail = _read_at(stream, tail_start, size - tail_start)
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) - found < END.size:
        raise DamagedArchiveError("it is not a zip archive, or its end is missing")
    _, disk, _, _, members, length, start, _ = END.unpack_from(tail, found)
    end = tail_start + found
    location = tail[max(found - END64_LOCATION.size, 0) : found]
    if location.startswith(b"PK\6\7"):
        end = max(end - END64_LOCATION.size - END64.size, 0)
        signature, *_, members, length, start = END64.unpack(_read_at(stream, end, END64.size).ljust(END64.size))
        if signature != b"PK\6\6":
            raise DamagedArchiveError("its directory cannot be found")
    elif disk:
        raise _one_of_several()
    shift = end - length - start
    if shift < 0 or length < members * ENTRY.size:
        raise DamagedArchiveError("its directory cannot be found")
    return ZipDirectory(end - length, end, members, shift)


def zip_members(stream: Any, directory: ZipDirectory) -> Iterator[ZipMember]:
    """Yield the members of an archive, folders too, in the order of its directory. Raises DamagedArchiveError."""
    stream.seek(directory.start)
    block, at, unread = b"", 0, directory.end - directory.start
    for _ in range(directory.members):
        if unread and len(block) - at < LONGEST_ENTRY_BYTES:
            more = read_up_to(stream, min(BLOCK_BYTES, unread))
            block, at, unread = block[at:] + more, 0, unread - len(more) if more else 0
        if len(block) - at < ENTRY.size or not block.startswith(b"PK\1\2", at):
            raise _damaged(directory)
        member, length = _member(block, at, directory.shift)
        at += length
        if at > len(block):
            raise _damaged(directory)
        yield member
    if unread or at != len(block):
        raise _damaged(directory)


def _member(block: bytes, at: int, shift: int) -> tuple[ZipMember, int]:
    """Return the member of the entry at a position, and the length of the entry."""
    fields = ENTRY.unpack_from(block, at)
    _, _, system, _, _, flags, method, _, _, crc, packed_size, size, name_length, extra_length, comment_length = fields[:15]
    disk, _, mode, offset = fields[15:]
    name_end = at + ENTRY.size + name_length
    if 0xFFFFFFFF in (size, packed_size, offset):
        size, packed_size, offset = _wide(block[name_end : name_end + extra_length], [size, packed_size, offset])
    offset += shift
    if max(offset, packed_size, size) >= 2**62:
        raise DamagedArchiveError("its directory contains impossible sizes")
    if disk not in (0, 0xFFFF):
        raise _one_of_several()
    name = block[at + ENTRY.size : name_end]
    member = ZipMember(name, offset, packed_size, size, crc, method, flags & 1, _kind(system, mode))
    return member, ENTRY.size + name_length + extra_length + comment_length


def _wide(extra: bytes, values: list[int]) -> list[int]:
    """Return these values, those that do not fit into 32 bits from the fields behind the name."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            wide = list(struct.unpack_from(f"<{min(length, len(extra) - 4) // 8}Q", extra, 4))
            return [wide.pop(0) if value == 0xFFFFFFFF and wide else value for value in values]
        extra = extra[4 + length :]
    return values


def _kind(system: int, mode: int) -> str:
    """Return the kind of a member, from the Unix mode in its attributes."""
    kind = stat.S_IFMT(mode >> 16) if system == 3 else 0
    return "file" if kind in (0, stat.S_IFREG) else "link" if kind == stat.S_IFLNK else "special"


def overlapping(stream: Any, directory: ZipDirectory) -> npt.NDArray[np.bool_]:
    """Return which members share bytes with another member or with the directory, in the order of the directory."""
    offsets, ends = array("q"), array("q")
    for member in zip_members(stream, directory):
        offsets.append(member.offset)
        ends.append(member.end)
    starts = np.sort(np.frombuffer(offsets, np.int64))
    first, after = (np.searchsorted(starts, np.frombuffer(offsets, np.int64), side) for side in ("left", "right"))
    limits = np.append(starts, directory.start)[after]
    return (after - first > 1) | (np.frombuffer(ends, np.int64) > limits)


def _damaged(directory: ZipDirectory) -> DamagedArchiveError:
    return DamagedArchiveError(f"its directory does not hold the {directory.members:,} members that were written")


def _one_of_several() -> DamagedArchiveError:
    return DamagedArchiveError("it is one part of several")


def _read_at(stream: Any, position: int, count: int) -> bytes:
    stream.seek(position)
    return read_up_to(stream, count)
