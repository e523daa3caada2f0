"""Reading images that are files, local or remote: each is read whole, but never more than ingest.max_bytes."""

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
from components.ingest.sources.chunks import HEAD_BYTES, CannotReadError, ListedImage, RawImage, Unread, listed_images
from components.ingest.sources.listing import UNKNOWN

CONCURRENT_REQUESTS = 8  # of one worker: a remote file system answers with a delay
RETRY_AFTER_SECONDS = (0.5, 2.0)
# O_NONBLOCK: opening a named pipe would otherwise block until somebody writes to it.
OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_local_files(root: bytes, max_bytes: int, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read the files of a chunk below `root`; the numbers of an image are size and modification time when listed."""
    for image in listed_images(*packed):
        size, stamp = image.numbers
        try:
            content = read_local_file(os.path.join(root, image.name), size, stamp, max_bytes)  # bytes
        except CannotReadError as error:
            yield image.unread(error)
        else:
            yield RawImage(image.id, image.label, image.split, content)


def read_local_file(path: bytes, size: int, stamp: int, max_bytes: int) -> bytes:
    """Return the content of a regular file that has not changed since it was listed. Raises CannotReadError."""
    try:
        if size <= 0:  # opening a device can have side effects; its size is 0
            refuse_irregular(os.stat(path))
        descriptor = os.open(path, OPEN_FLAGS)
        try:
            return _read_descriptor(descriptor, size, stamp, max_bytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CannotReadError("unreadable file", error.strerror or str(error)) from None


def _read_descriptor(descriptor: int, size: int, stamp: int, max_bytes: int) -> bytes:
    before = os.fstat(descriptor)
    refuse_irregular(before)
    if before.st_size > max_bytes:
        refuse_size(before.st_size, max_bytes, open(descriptor, "rb", buffering=0, closefd=False))  # noqa: SIM115
    content = os.read(descriptor, before.st_size + 1)
    if len(content) < before.st_size:  # a network file system may return less at once
        content += read_up_to(open(descriptor, "rb", buffering=0, closefd=False), before.st_size + 1 - len(content))  # noqa: SIM115
    after = os.fstat(descriptor)
    if not (size, stamp) == (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) or len(content) != size:
        raise changed(size, len(content), content)
    return content


def refuse_irregular(status: os.stat_result) -> None:
    """Raise CannotReadError for anything but a regular file."""
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISDIR: "a folder"}
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in kinds.items() if test(status.st_mode)), "a device")
        raise CannotReadError("not a regular file", kind)


def refuse_size(size: int, max_bytes: int, file: Any = None) -> None:
    """Raise CannotReadError for a file of more than `max_bytes`; only its first bytes are read."""
    if size > max_bytes:
        head = read_up_to(file, HEAD_BYTES) if file else b""
        raise CannotReadError("too large", f"{size:,} bytes, ingest.max_bytes = {max_bytes:,}", head)


def changed(listed_bytes: int, read_bytes: int, content: bytes) -> CannotReadError:
    """Return the error for a file that has changed since it was listed."""
    listed = f"{listed_bytes:,} bytes" if listed_bytes >= 0 else "unreadable"
    return CannotReadError("changed while reading", f"{listed} when listed, {read_bytes:,} bytes read", content[:HEAD_BYTES])


def read_up_to(file: Any, count: int) -> bytes:
    """Read `count` bytes, fewer only at the end; a single read() of a raw file or an HTTP stream may return fewer."""
    parts: list[bytes] = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_remote_files(root: str, max_bytes: int, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read the files of a chunk below a URL; the numbers of an image are size and stamp when listed."""
    filesystem, folder = find_filesystem(root)

    def read(image: ListedImage) -> RawImage | Unread:
        try:
            content = _read_with_retries(filesystem, f"{folder.rstrip('/')}/{image.name.decode()}", image.numbers, max_bytes)
        except CannotReadError as error:
            return image.unread(error)
        return RawImage(image.id, image.label, image.split, content)

    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
        waiting: deque[Future[RawImage | Unread]] = deque()
        for image in listed_images(*packed):  # a bounded queue: finished reads wait in memory
            waiting.append(pool.submit(read, image))
            if len(waiting) == CONCURRENT_REQUESTS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read_with_retries(filesystem: Any, path: str, numbers: tuple[int, ...], max_bytes: int) -> bytes:
    # Not RetryingClient: the cause alone goes into the quarantine, and a folder of broken files must not wait 15 s for each.
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
        if not stamp_of(info):  # HTTP knows the size alone when it opens a file
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
