"""A lease: of all processes, on any number of machines, one at a time works on something.

A lease is a folder of numbered files, each created once (components.common.store). Its holder creates the next file every
30 seconds, and the last one says who holds it. Another process takes it over by creating the next file: when the last one says
`released`, when its process has ended on this machine, or when there was no new file for two minutes. A holder that finds the
next number taken has lost the lease and must not write. Numbers are not reused, since a mounted bucket may show a removed file
as present for a minute.

Clocks of machines are not compared: the waiting process measures the two minutes.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Iterator

from pydantic import ValidationError

from components.common.artifacts import now
from components.common.errors import ArtifactError
from components.common.numbered import numbered, numbers_in
from components.common.processes import id_space, is_alive, started_at
from components.common.progress import say
from components.common.section import Frozen
from components.common.store import Store

RENEW_SECONDS = 30.0
EXPIRY_SECONDS = 120.0  # more than the minute for which caches may hide a new file
HOLDER_EXPIRY_SECONDS = 90.0  # the holder stops before others take over
POLL_SECONDS = 0.5


class Entry(Frozen):
    """The content of a file of a lease: the process that holds it, or released it."""

    id_space: str
    pid: int
    started_at: str
    host: str
    written_at: str
    released: bool = False

    def is_dead(self) -> bool:
        """Return whether the process is known to have ended; False if it is on another machine."""
        if self.id_space != id_space():
            return False
        return not is_alive(self.pid) or started_at(self.pid) != self.started_at


class Lease:
    """A lease that this process holds."""

    def __init__(self, store: Store, folder: str, number: int) -> None:
        self._store, self._folder, self._number = store, folder, number
        self._renewed = _clock()
        self._taken_over = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {folder}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise ArtifactError if the lease was lost. Call it before each write that another holder's work depends on."""
        try:
            if self._is_fresh() or self._renew():
                return
            why = "another process took it over"
        except ArtifactError as error:
            why = f"it could not be renewed ({error.problem.rstrip('.')})"
        raise ArtifactError(
            f"This process lost its lease {self._store.location}/{self._folder}: {why}.", "Nothing was written; run again."
        )

    def release(self) -> None:
        """Let the next process take the lease over at once."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(ArtifactError):  # it expires
            self._renew(released=True)

    def _keep(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            with contextlib.suppress(ArtifactError):  # tried again; `check` sees when it was too long ago
                if not self._renew():
                    return

    def _is_fresh(self) -> bool:
        return not self._taken_over and _clock() - self._renewed < HOLDER_EXPIRY_SECONDS

    def _renew(self, *, released: bool = False) -> bool:
        """Create the next file; return False if another process took the lease over. Raises ArtifactError."""
        with self._lock:
            if self._taken_over:
                return False
            clock, fresh = _clock(), self._is_fresh()
            if _create(self._store, self._folder, self._number + 1, check=not fresh, released=released):
                self._number, self._renewed = self._number + 1, clock
                self._store.delete(numbered(self._folder, self._number - 1))
            else:
                self._taken_over = True
            return not self._taken_over


@contextlib.contextmanager
def leased(store: Store, folder: str, *, holder: str, wait_seconds: float = 60.0, waiting: str = "") -> Iterator[Lease]:
    """Hold the lease in `folder` of a store; wait up to `wait_seconds` for another process, longer to find out that it died.

    `holder` names the other process in errors ("Another push"), `waiting` is printed before the wait. Raises ArtifactError.
    """
    lease = Lease(store, folder, _acquire(store, folder, holder, wait_seconds, waiting))
    try:
        yield lease
    finally:
        lease.release()


def _acquire(store: Store, folder: str, holder: str, wait_seconds: float, waiting: str) -> int:
    """Create the next file of a lease as soon as that is allowed; return its number."""
    began = changed = _clock()
    first: int | None = None
    last = 0
    while True:
        numbers = numbers_in(store, folder)
        number = numbers[-1] if numbers else 0
        if number != last:
            last, changed = number, _clock()
        entry = _read(store, folder, number) if number else None
        if entry is None or entry.released or entry.is_dead() or _clock() - changed > EXPIRY_SECONDS:
            if _create(store, folder, number + 1, check=True):
                for old in numbers:
                    store.delete(numbered(folder, old))
                return number + 1
        else:
            first = number if first is None else first
            alive = entry.id_space == id_space() or number != first
            if alive and _clock() - began >= wait_seconds:
                waited = f" and did not release it within {wait_seconds:.0f} s" if wait_seconds else ""
                who = f"process {entry.pid} on {entry.host}"
                raise ArtifactError(
                    f"{holder} ({who}) holds {store.location}/{folder}{waited}.", "Wait until it ends, then run again."
                )
            if waiting and wait_seconds:
                say(waiting)
                waiting = ""
        time.sleep(POLL_SECONDS)


def _create(store: Store, folder: str, number: int, *, check: bool, released: bool = False) -> bool:
    """Create a file of a lease; return False if another process was first.

    `check` also looks for a higher number: after a long pause, this number may be one that later holders have removed.
    """
    entry = Entry(
        id_space=id_space(),
        pid=os.getpid(),
        started_at=started_at(os.getpid()),
        host=platform.node(),
        written_at=now(),
        released=released,
    )
    file = numbered(folder, number)
    if not store.create(file, entry.model_dump_json().encode()):
        return False
    if check and numbers_in(store, folder)[-1] != number:
        store.delete(file)
        return False
    return True


def _read(store: Store, folder: str, number: int) -> Entry | None:
    """Return an entry, None if it is gone, or empty because its writer was killed."""
    try:
        return Entry.model_validate_json(store.read(numbered(folder, number)))
    except (FileNotFoundError, ValidationError):
        return None


def _clock() -> float:
    """Return seconds of a clock that also runs while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
