"""The members of a zip archive and where they lie, and one member's content, without unpacking anything to a disk.

Written here because the standard library's reader keeps the whole directory in memory, a kilobyte for each member, and
every worker would have to read it again for each chunk.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from components.ingest.sources.chunks import HEAD_BYTES, CannotReadError
from components.ingest.sources.files import read_up_to
from components.ingest.sources.tar_archive import DamagedArchiveError

END = struct.Struct("<4s4H2LH")
END64_PLACE = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s4B4H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
STORED, DEFLATED = 0, 8
MAX_RATIO = 200  # of unpacked to packed size; photos reach 2, drawings 50
UNSUSPECTED_BYTES = 16 * 2**20  # a blank picture may be packed as small as it likes


class ZipMember(NamedTuple):
    """A member: name as bytes, where its own header lies, packed and unpacked size, checksum, method, encryption, kind."""

    name: bytes
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    encrypted: bool
    kind: str


class ZipDirectory(NamedTuple):
    """The directory at the end of a zip archive: where it begins and ends, entries, and bytes put before the archive."""

    start: int
    end: int
    entries: int
    shift: int


def find_directory(stream: Any, size: int) -> ZipDirectory:
    """Return where the directory of a zip archive of `size` bytes lies. Raises DamagedArchiveError."""
    tail_start = max(0, size - END.size - 0xFFFF)
    tail = _read_at(stream, tail_start, size - tail_start)
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) - found < END.size:
        raise DamagedArchiveError("it is no zip archive, or its end is missing")
    _, disk, _, _, entries, length, start, _ = END.unpack_from(tail, found)
    end = tail_start + found
    place = tail[found - END64_PLACE.size : found] if found >= END64_PLACE.size else b""
    if place.startswith(b"PK\6\7"):
        end -= END64_PLACE.size + END64.size
        signature, *_, entries, length, start = END64.unpack(_read_at(stream, max(end, 0), END64.size).ljust(END64.size))
        if signature != b"PK\6\6":
            raise DamagedArchiveError("its directory cannot be found")
    elif disk:
        raise DamagedArchiveError("it is one part of several")
    shift = end - length - start
    if shift < 0 or length < entries * ENTRY.size:
        raise DamagedArchiveError("its directory cannot be found")
    return ZipDirectory(end - length, end, entries, shift)


def zip_members(stream: Any, directory: ZipDirectory) -> Iterator[ZipMember]:
    """Yield the members of a zip archive that are no folders, in the order of its directory. Raises DamagedArchiveError."""
    position = directory.start
    stream.seek(position)
    for _ in range(directory.entries):
        fields = ENTRY.unpack(read_up_to(stream, ENTRY.size).ljust(ENTRY.size))
        signature, _, system, _, _, flags, method, _, _, crc, packed, size, *lengths, disk, _, mode, offset = fields
        total = sum(lengths)
        if signature != b"PK\1\2" or position + ENTRY.size + total > directory.end:
            raise DamagedArchiveError(f"its directory is damaged at byte {position:,}")
        texts = read_up_to(stream, total)
        name, extra = texts[: lengths[0]], texts[lengths[0] : lengths[0] + lengths[1]]
        size, packed, offset = _wide(extra, [size, packed, offset])
        position += ENTRY.size + total
        if max(size, packed, offset + directory.shift) >= 2**62:
            raise DamagedArchiveError(f"its directory names impossible sizes before byte {position:,}")
        if not name.endswith(b"/"):
            yield ZipMember(
                name,
                offset + directory.shift,
                packed,
                size,
                crc,
                method,
                bool(flags & 1),
                _kind(system, mode),
            )
        if disk not in (0, 0xFFFF):
            raise DamagedArchiveError("it is one part of several")
    if position != directory.end:
        raise DamagedArchiveError(f"its directory is damaged at byte {position:,}")


def _kind(system: int, mode: int) -> str:
    """Return what a member is, from the Unix mode in its attributes."""
    kind = stat.S_IFMT(mode >> 16) if system == 3 else 0
    return "file" if kind in (0, stat.S_IFREG) else "link" if kind == stat.S_IFLNK else "special"


def _wide(extra: bytes, values: list[int]) -> list[int]:
    """Take the 64-bit values of an entry from its extra field, where the 32-bit ones say so."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            wide = list(struct.unpack_from(f"<{min(length, len(extra) - 4) // 8}Q", extra, 4))
            return [wide.pop(0) if value == 0xFFFFFFFF and wide else value for value in values]
        extra = extra[4 + length :]
    return values


def read_member(stream: Any, member: ZipMember, max_bytes: int) -> bytes:
    """Return the content of a member, checked; never more than it says it holds. Raises CannotReadError, OSError."""
    _refuse(member, max_bytes)
    header = _read_at(stream, member.offset, LOCAL.size)
    if len(header) < LOCAL.size or not header.startswith(b"PK\3\4"):
        raise CannotReadError("damaged archive member", f"no header at byte {member.offset:,}")
    *_, name_length, extra_length = LOCAL.unpack(header)
    packed = _read_at(stream, member.offset + LOCAL.size + name_length + extra_length, member.packed)
    content = _unpacked(packed, member)
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise CannotReadError("damaged archive member", "another size or checksum than told", content[:HEAD_BYTES])
    return content


def _refuse(member: ZipMember, max_bytes: int) -> None:
    if member.encrypted:
        raise CannotReadError("encrypted", "only the owner of the password can read it")
    if member.method not in (STORED, DEFLATED):
        raise CannotReadError("unsupported compression", f"method {member.method} of zip, 0 and 8 can be read")
    if member.size > max_bytes or member.packed > 2 * max_bytes + HEAD_BYTES:  # what cannot be packed grows a little
        raise CannotReadError("too large", f"{member.size:,} bytes, ingest.max_bytes = {max_bytes:,}")
    if member.size > UNSUSPECTED_BYTES and member.size > MAX_RATIO * member.packed:
        times = member.size // max(member.packed, 1)
        raise CannotReadError("unpacks too much", f"{times:,} times its packed size, {MAX_RATIO} are allowed")


def _unpacked(packed: bytes, member: ZipMember) -> bytes:
    if member.method == STORED:
        return packed
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.size + 1)
    except zlib.error as error:
        raise CannotReadError("damaged archive member", str(error), b"") from None


def _read_at(stream: Any, position: int, count: int) -> bytes:
    stream.seek(position)
    return read_up_to(stream, count)
