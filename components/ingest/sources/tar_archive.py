"""The members of a tar archive and the offsets of their data; nothing is unpacked.

Not Python's tarfile, because archives come from strangers: tarfile ends silently at a damaged header, reads a name of any
length into memory, and in the Python versions that are supported can loop for ever or for hours on a crafted header
(CVE-2025-8194, CVE-2024-6232). See the tests of damaged and crafted headers in tests/unit/ingest/sources/test_archives.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

BLOCK = 512
MAX_HEADER_BYTES = 2**20  # of the long names and attributes before a member
# Type flags. Notes are what GNU tar records about the archive itself; prefixes describe the member that follows.
LINKS, SPECIAL, FOLDERS, NOTES, PREFIXES = b"12", b"346", b"5", b"DMNV", b"LKxg"


class DamagedArchiveError(Exception):
    """An archive cannot be listed to its end."""


class TarMember(NamedTuple):
    """A member: name as bytes, offset of its data, size in bytes, and kind: file, link, special or sparse."""

    name: bytes
    offset: int
    size: int
    kind: str


def tar_members(stream: Any, check: Callable[[int], None]) -> Iterator[TarMember]:
    """Yield the members of a tar archive in order, without folders.

    `stream` must be able to seek forward. `check` is called with the end of each member before the member is skipped, and
    may raise. Raises DamagedArchiveError.
    """
    position = 0
    attributes: dict[bytes, bytes] = {}
    while True:
        block = stream.read(BLOCK)
        if len(block) == BLOCK and not block.strip(b"\0"):
            return
        _check_block(block, position)
        kind, size = block[156:157], _number(block[124:136], position)
        position += BLOCK
        check(position + size)
        if kind in PREFIXES:
            attributes |= _prefix(stream, kind, size, position)
            position += _padded(size)
            continue
        if kind == b"S":
            position += _skip_sparse_map(stream, block)
        size = _decimal(attributes[b"size"], position) if b"size" in attributes else size
        stored = 0 if kind in LINKS + SPECIAL + FOLDERS else _padded(size)
        check(position + stored)
        member = _member(block, kind, position, size, attributes)
        if member is not None:
            yield member
        position, attributes = position + stored, {}
        stream.seek(position)


def _check_block(block: bytes, position: int) -> None:
    if len(block) < BLOCK:
        raise DamagedArchiveError(f"it ends at byte {position + len(block):,} without an end mark")
    summed, checksum = block[:148] + b" " * 8 + block[156:], _number(block[148:156], position)
    if checksum != sum(summed) and checksum != sum(memoryview(summed).cast("b")):  # some old programs add signed bytes
        raise _bad_header("wrong checksum in", position)


def _bad_header(problem: str, position: int) -> DamagedArchiveError:
    return DamagedArchiveError(f"{problem} the header at byte {position:,}" if position else "it is not a tar archive")


def _number(field: bytes, position: int) -> int:
    """Return a number of a header: octal digits, or binary if its highest bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return _decimal(field.split(b"\0")[0].strip() or b"0", position, base=8)


def _decimal(digits: bytes, position: int, base: int = 10) -> int:
    try:
        value = int(digits, base)
    except ValueError:
        value = -1
    if value < 0:
        raise _bad_header("invalid number in", position)
    return value


def _prefix(stream: Any, kind: bytes, size: int, position: int) -> dict[bytes, bytes]:
    """Read a header that describes the next member; return its attributes."""
    if size > MAX_HEADER_BYTES:
        raise DamagedArchiveError(f"a name or attributes of {size:,} bytes at byte {position:,}")
    content = stream.read(_padded(size))[:size]
    if len(content) < size:
        raise DamagedArchiveError(f"it ends at byte {position + len(content):,}, inside a header")
    if kind == b"L":
        return {b"path": content.rstrip(b"\0")}
    return _attributes(content, position) if kind == b"x" else {}


def _attributes(content: bytes, position: int) -> dict[bytes, bytes]:
    """Return the attributes of a pax header, records of "LENGTH KEY=VALUE\\n"."""
    found = {}
    while content:
        digits = content.partition(b" ")[0]
        length = _decimal(digits, position)
        key, equals, value = content[len(digits) + 1 : max(length - 1, 0)].partition(b"=")
        if not equals or length > len(content):  # a length of 0 has no "=" either, so the loop ends
            raise DamagedArchiveError(f"invalid attributes at byte {position:,}")
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


def _member(block: bytes, kind: bytes, offset: int, size: int, attributes: dict[bytes, bytes]) -> TarMember | None:
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].split(b"\0")[0] + b"/" + name
    name = attributes.get(b"path", name)
    if kind in FOLDERS + NOTES or name.endswith(b"/"):
        return None
    if kind in LINKS + SPECIAL:
        return TarMember(name, offset, 0, "link" if kind in LINKS else "special")
    sparse = kind == b"S" or (attributes and any(key.startswith(b"GNU.sparse.") for key in attributes))
    return TarMember(attributes.get(b"GNU.sparse.name", name), offset, size, "sparse" if sparse else "file")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
