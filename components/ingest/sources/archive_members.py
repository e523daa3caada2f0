"""Reading the members of .tar, .tar.gz and .zip archives at the offsets that a chunk holds.

The members of a .zip are read here and not by Python's zipfile, which would parse the directory of the archive again for
every chunk, in every worker.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from components.common.addresses import find_filesystem, is_address, remote_errors, size_of, stamp_of
from components.common.errors import ConfigError, first_line
from components.ingest.sources.chunks import HEAD_BYTES, CannotReadError, ListedImage, RawImage, Unread, listed_images
from components.ingest.sources.files import OPEN_FLAGS, changed, read_up_to, refuse_irregular, refuse_size

# Why a member is not read, by its number in a chunk; 0: it is read.
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

LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # before each member of a .zip
STORED, DEFLATED = 0, 8  # compression methods of a .zip
MAX_RATIO = 200  # of unpacked to packed size; photos reach 2, drawings 50
UNSUSPICIOUS_BYTES = 16 * 2**20  # a small member may have any ratio: blank pictures do

Opened = tuple[Any, int, int]  # a seekable stream, and size and stamp of the archive


@contextlib.contextmanager
def archive_opened(location: str) -> Iterator[Opened]:
    """Open an archive; yields a stream, its size and its stamp. Raises ConfigError."""
    try:
        stream, size, stamp = _open_remote(location) if is_address(location) else _open_local(location)
    except CannotReadError as error:
        raise ConfigError(f"{location} is {error.detail}, not an archive.", "Name an archive, a folder or a pattern.") from None
    except remote_errors(ValueError) as error:
        raise cannot_open(location, error) from None
    with stream:
        yield stream, size, stamp


def _open_local(path: str) -> Opened:
    refuse_irregular(os.stat(path))
    stream = open(os.open(path, OPEN_FLAGS), "rb")  # noqa: SIM115  # the caller closes it
    status = os.fstat(stream.fileno())
    return stream, status.st_size, status.st_mtime_ns


def _open_remote(url: str) -> Opened:
    filesystem, path = find_filesystem(url)
    info = filesystem.info(path)
    stream = filesystem.open(path, "rb")
    stream.read(1)  # fetches a small archive as a whole, so that the server need not support range requests
    stream.seek(0)
    return stream, size_of(info), stamp_of(info)


def cannot_open(location: str, error: BaseException) -> ConfigError:
    """Return the error for an archive that is missing or not readable."""
    return ConfigError(f"{location} cannot be read: {first_line(error)}.", "Check that it exists and is readable.")


def read_tar_members(location: str, size: int, stamp: int, max_bytes: int, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read the members of a chunk of a .tar; the numbers of an image are offset, size and fault."""
    return _read_members(location, size, stamp, packed, lambda stream, image: _tar_content(stream, image, max_bytes))


def read_tar_gz_members(location: str, size: int, stamp: int, max_bytes: int, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read all members of a .tar.gz in order; the numbers of an image are offset, size and fault."""
    unpacked: list[gzip.GzipFile] = []

    def content(stream: Any, image: ListedImage) -> bytes:
        if not unpacked:
            unpacked.append(gzip.GzipFile(fileobj=stream))
        return _tar_content(unpacked[0], image, max_bytes)

    return _read_members(location, size, stamp, packed, content)


def _tar_content(stream: Any, image: ListedImage, max_bytes: int) -> bytes:
    offset, length, _ = image.numbers
    stream.seek(offset)
    refuse_size(length, max_bytes, stream)
    content = read_up_to(stream, length)
    if len(content) < length:
        raise CannotReadError("damaged archive member", f"{len(content):,} of {length:,} bytes", content[:HEAD_BYTES])
    return content


def read_zip_members(location: str, size: int, stamp: int, max_bytes: int, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read the members of a chunk of a .zip; for the numbers of an image see `_zip_content`."""
    return _read_members(location, size, stamp, packed, lambda stream, image: _zip_content(stream, image, max_bytes))


def _zip_content(stream: Any, image: ListedImage, max_bytes: int) -> bytes:
    """Return the content of a member, at most as many bytes as the directory says. Raises CannotReadError, OSError."""
    offset, packed_size, size, crc, method, encrypted, _ = image.numbers
    if encrypted:
        raise CannotReadError("encrypted", "only the owner of the password can read it")
    if method not in (STORED, DEFLATED):
        raise CannotReadError("unsupported compression", f"method {method} of zip, 0 and 8 can be read")
    if size > max_bytes or packed_size > 2 * max_bytes + HEAD_BYTES:  # incompressible data grows a little
        raise CannotReadError("too large", f"{size:,} bytes, ingest.max_bytes = {max_bytes:,}")
    if size > UNSUSPICIOUS_BYTES and size > MAX_RATIO * packed_size:
        times = size // max(packed_size, 1)
        raise CannotReadError("unpacks too much", f"{times:,} times its packed size, {MAX_RATIO} are allowed")
    stream.seek(offset)
    header = read_up_to(stream, LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise CannotReadError("damaged archive member", f"no header at byte {offset:,}")
    *_, name_length, extra_length = LOCAL_HEADER.unpack(header)
    stream.seek(offset + LOCAL_HEADER.size + name_length + extra_length)
    content = read_up_to(stream, packed_size)
    if method == DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    if len(content) != size or zlib.crc32(content) != crc:
        raise CannotReadError("damaged archive member", "another size or checksum than told", content[:HEAD_BYTES])
    return content


def _read_members(
    location: str, size: int, stamp: int, packed: tuple[bytes, ...], content: Callable[[Any, ListedImage], bytes]
) -> Iterator[RawImage | Unread]:
    """Yield an item for each image; if the archive is missing or has changed since it was listed, all are Unread."""
    with contextlib.ExitStack() as stack:
        try:
            stream, size_now, stamp_now = stack.enter_context(archive_opened(location))
            if (size_now, stamp_now) != (size, stamp):
                raise changed(size, size_now, b"")
        except (ConfigError, CannotReadError) as error:
            reason = CannotReadError("unreadable file", error.problem) if isinstance(error, ConfigError) else error
            yield from (image.unread(reason) for image in listed_images(*packed))
            return
        for image in listed_images(*packed):
            try:
                if image.numbers[-1]:
                    raise CannotReadError(*FAULTS[image.numbers[-1]])
                item = RawImage(image.id, image.label, image.split, content(stream, image))
                _refuse_changed(stream, size, stamp)
            except CannotReadError as error:
                yield image.unread(error)
            except remote_errors(EOFError, ValueError, zlib.error) as error:
                yield image.unread(CannotReadError("damaged archive member", first_line(error)))
            else:
                yield item


def _refuse_changed(stream: Any, size: int, stamp: int) -> None:
    """Raise CannotReadError if a local archive was written to while a member was read; a remote one is checked once."""
    with contextlib.suppress(AttributeError, OSError):  # streams of fsspec have no descriptor
        status = os.fstat(stream.fileno())
        if (status.st_size, status.st_mtime_ns) != (size, stamp):
            raise changed(size, status.st_size, b"")
