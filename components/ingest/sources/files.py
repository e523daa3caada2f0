"""Images that are files, on this machine or behind an address: read whole, but never more than one may hold."""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from components.common.addresses import find_filesystem, remote_errors, size_of, stamp_of
from components.common.errors import first_line
from components.ingest.sources.chunks import HEAD_BYTES, CannotReadError, RawImage, Row, Unread, rows
from components.ingest.sources.listing import UNKNOWN

REQUESTS_AT_ONCE = 8  # an address answers late: one worker waits for so many at once
RETRY_AFTER_SECONDS = (0.5, 2.0)
# O_NONBLOCK: a pipe named like an image would keep open() waiting for someone who writes to it.
OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_local_files(root: bytes, max_bytes: int, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read the files of a chunk below `root`; a row's numbers are size and modification time when it was listed."""
    for row in rows(*packed):
        size, stamp = row.numbers
        try:
            content = read_local_file(os.path.join(root, row.name), size, stamp, max_bytes)  # bytes
        except CannotReadError as error:
            yield row.unread(error)
        else:
            yield RawImage(row.id, row.label, row.split, content)


def read_local_file(path: bytes, size: int, stamp: int, max_bytes: int) -> bytes:
    """Return the content of a regular file that is still what it was when it was listed. Raises CannotReadError."""
    try:
        refuse_irregular(os.stat(path))  # before it is opened: opening a device may already do something
        with open(os.open(path, OPEN_FLAGS), "rb", buffering=0) as file:  # a descriptor
            return _read_open_file(file, size, stamp, max_bytes)
    except OSError as error:
        raise CannotReadError("unreadable file", error.strerror or str(error)) from None


def _read_open_file(file: Any, size: int, stamp: int, max_bytes: int) -> bytes:
    before = os.fstat(file.fileno())
    refuse_irregular(before)
    refuse_size(before.st_size, max_bytes, file)
    content = read_up_to(file, before.st_size + 1)
    after = os.fstat(file.fileno())
    if not (size, stamp) == (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) or len(content) != size:
        raise changed(size, len(content), content)
    return content


def refuse_irregular(status: os.stat_result) -> None:
    """Raise CannotReadError for what is no regular file."""
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISDIR: "a folder"}
    if not stat.S_ISREG(status.st_mode):
        found = next((name for test, name in kinds.items() if test(status.st_mode)), "a device")
        raise CannotReadError("not a regular file", found)


def refuse_size(size: int, max_bytes: int, file: Any = None) -> None:
    """Raise CannotReadError for a file of more than `max_bytes`; only its first bytes are read."""
    if size > max_bytes:
        head = read_up_to(file, HEAD_BYTES) if file else b""
        raise CannotReadError("too large", f"{size:,} bytes, ingest.max_bytes = {max_bytes:,}", head)


def changed(listed: int, found: int, content: bytes) -> CannotReadError:
    """Return the error of a file that is no longer what was listed."""
    known = f"{listed:,} bytes" if listed >= 0 else "unreadable"
    return CannotReadError("changed while reading", f"{known} when listed, {found:,} bytes read", content[:HEAD_BYTES])


def read_up_to(file: Any, count: int) -> bytes:
    """Read `count` bytes, fewer only at the end: one read() of a raw file or of a stream may give less."""
    content: bytes = file.read(count)
    if not content or len(content) == count:
        return content
    parts, missing = [content], count - len(content)
    while missing and (part := file.read(missing)):
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_remote_files(root: str, max_bytes: int, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read the files of a chunk behind an address; a row's numbers are size and stamp when it was listed."""
    filesystem, folder = find_filesystem(root)

    def read(row: Row) -> RawImage | Unread:
        try:
            content = _read_patiently(filesystem, f"{folder.rstrip('/')}/{row.name.decode()}", row.numbers, max_bytes)
        except CannotReadError as error:
            return row.unread(error)
        return RawImage(row.id, row.label, row.split, content)

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        waiting: deque[Future[RawImage | Unread]] = deque()
        for row in rows(*packed):  # no more at once: what has come waits in memory
            waiting.append(pool.submit(read, row))
            if len(waiting) == REQUESTS_AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read_patiently(filesystem: Any, path: str, numbers: tuple[int, ...], max_bytes: int) -> bytes:
    for wait in (*RETRY_AFTER_SECONDS, None):
        try:
            return _read_remote(filesystem, path, numbers, max_bytes)
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise CannotReadError("unreadable file", error.strerror or type(error).__name__) from None
        except remote_errors() as error:
            if wait is None:
                raise CannotReadError("unreadable file", first_line(error)) from None
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _read_remote(filesystem: Any, path: str, numbers: tuple[int, ...], max_bytes: int) -> bytes:
    size, stamp = numbers
    with filesystem.open(path, "rb") as file:
        info = getattr(file, "details", None) or {}
        if not stamp_of(info):  # HTTP tells size alone when it opens a file
            info = filesystem.info(path)
        now = size_of(info)
        refuse_size(now, max_bytes, file)
        content = read_up_to(file, (max_bytes if now < 0 else now) + 1)
    refuse_size(len(content), max_bytes)
    if UNKNOWN in (size, now):
        size = now = len(content)
    if size != now or len(content) != now or (min(stamp, stamp_of(info)) > 0 and stamp != stamp_of(info)):
        raise changed(size, len(content), content)
    return content
