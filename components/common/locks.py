"""File locks, for processes on one machine that must not write to the same folder at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from components.common.errors import ArtifactError, first_line
from components.common.progress import say


@contextlib.contextmanager
def locked(file: Path, *, holder: str, wait_seconds: float = 60.0, cure: str = "", waiting: str = "") -> Iterator[None]:
    """Create the folder of `file` and hold the lock `file`; wait up to `wait_seconds` for another process to release it.

    `holder` names the other process in errors ("Another push"), `waiting` is printed before the wait, `cure` says what to do
    when the folder cannot be written. Raises ArtifactError.
    """
    lock = filelock.FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if waiting and wait_seconds:
                say(waiting)
            lock.acquire(timeout=wait_seconds)
    except filelock.Timeout:
        waited = f" and did not release it within {wait_seconds:.0f} s" if wait_seconds else ""
        raise ArtifactError(f"{holder} holds {file}{waited}.", "Wait until it ends, then run again.") from None
    except (OSError, NotImplementedError) as error:
        raise ArtifactError(f"Cannot lock {file}: {first_line(error)}.", cure or "Name a writable folder.") from error
    try:
        yield
    finally:
        lock.release()
