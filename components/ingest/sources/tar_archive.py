"""The members of a tar archive and where their data lies, without unpacking anything.

Written here because the standard library's reader keeps a kilobyte for each member, reads headers of any length into
memory, and in the Python that this is tested with follows negative sizes in a circle (CVE-2025-8194).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

BLOCK = 512
MAX_HEADER_BYTES = 2**20  # of the long names and attributes before a member
LINKS, SPECIAL, FOLDERS, NOTES = b"12", b"346", b"5", b"DMNV"  # notes: what GNU tar writes about the archive itself


class DamagedArchiveError(Exception):
    """An archive cannot be followed to its end; says where and why."""


class TarMember(NamedTuple):
    """A member: name as bytes, where its data begins, its size, and its kind: file, link, special or sparse."""

    name: bytes
    offset: int
    size: int
    kind: str


def tar_members(stream: Any, check: Callable[[int], None]) -> Iterator[TarMember]:
    """Yield the members of a tar archive that are no folders, in their order.

    `stream` can seek forward; `check` is told the end of a member before it is skipped. Raises DamagedArchiveError.
    """
    position = 0
    notes: dict[bytes, bytes] = {}
    while True:
        block = stream.read(BLOCK)
        if len(block) == BLOCK and not block.strip(b"\0"):
            return
        _check_block(block, position)
        kind, size = block[156:157], _number(block[124:136], position)
        position += BLOCK
        check(position + size)
        if kind in b"LKxg":  # what is said about the next member
            notes |= _note(kind, stream.read(_padded(_short(size, position))), size, position)
            position += _padded(size)
            continue
        if kind == b"S":
            position += _skip_sparse_map(stream, block)
        size = _decimal(notes[b"size"], position) if b"size" in notes else size
        member = _member(block, kind, position, size, notes)
        stored = 0 if kind in LINKS + SPECIAL + FOLDERS else _padded(size)
        check(position + stored)
        if member is not None:
            yield member
        position, notes = position + stored, {}
        stream.seek(position)


def _check_block(block: bytes, position: int) -> None:
    if len(block) < BLOCK:
        raise DamagedArchiveError(f"it ends at byte {position + len(block):,} without its end mark")
    own = block[:148] + b" " * 8 + block[156:]
    told = _number(block[148:156], position)
    if told not in (sum(own), sum(own) - 256 * sum(byte > 127 for byte in own)):  # some old programs add signed bytes
        raise DamagedArchiveError(f"wrong checksum of the header at byte {position:,}" if position else "it is no tar archive")


def _number(field: bytes, position: int) -> int:
    """Return a number of a header: octal digits, or with its highest bit set a binary one."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return _decimal(field.split(b"\0")[0].strip() or b"0", position, base=8)


def _decimal(digits: bytes, position: int, base: int = 10) -> int:
    try:
        value = int(digits, base)
    except ValueError:
        value = -1
    if value < 0:
        raise DamagedArchiveError(f"no number in the header at byte {position:,}" if position else "it is no tar archive")
    return value


def _short(size: int, position: int) -> int:
    if size > MAX_HEADER_BYTES:
        raise DamagedArchiveError(f"a name or attributes of {size:,} bytes at byte {position:,}")
    return size


def _note(kind: bytes, content: bytes, size: int, position: int) -> dict[bytes, bytes]:
    if len(content) < size:
        raise DamagedArchiveError(f"it ends at byte {position + len(content):,}, inside a header")
    if kind == b"L":
        return {b"path": content[:size].rstrip(b"\0")}
    return _attributes(content[:size], position) if kind == b"x" else {}


def _attributes(content: bytes, position: int) -> dict[bytes, bytes]:
    """Return the attributes of a pax header, records of "LENGTH KEY=VALUE\\n"."""
    found = {}
    while content:
        digits = content.partition(b" ")[0]
        length = _decimal(digits, position)
        key, equals, value = content[len(digits) + 1 : max(length - 1, 0)].partition(b"=")
        if not equals or length > len(content):  # so a length of 0, which would go in circles, is none either
            raise DamagedArchiveError(f"attributes that cannot be read at byte {position:,}")
        found[key] = value
        content = content[length:]
    return found


def _skip_sparse_map(stream: Any, block: bytes) -> int:
    skipped, more = 0, block[482]
    while more:
        extension = stream.read(BLOCK)
        if len(extension) < BLOCK:
            raise DamagedArchiveError("it ends inside a header")
        skipped, more = skipped + BLOCK, extension[504]
    return skipped


def _member(block: bytes, kind: bytes, offset: int, size: int, notes: dict[bytes, bytes]) -> TarMember | None:
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].split(b"\0")[0] + b"/" + name
    name = notes.get(b"path", name)
    if kind in FOLDERS + NOTES or name.endswith(b"/"):
        return None
    if kind in LINKS:
        return TarMember(name, offset, 0, "link")
    if kind in SPECIAL:
        return TarMember(name, offset, 0, "special")
    sparse = kind == b"S" or any(key.startswith(b"GNU.sparse.") for key in notes)
    return TarMember(notes.get(b"GNU.sparse.name", name), offset, size, "sparse" if sparse else "file")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
