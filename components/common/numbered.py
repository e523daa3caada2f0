"""A sequence of numbered files in a store, each created once: what several processes change together.

A state is never replaced: the next one is created, and of all processes that started from the same state one succeeds. An empty
file does not count, because a process that is killed on a mounted bucket can leave one; its number is not used again.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import TypeVar

from components.common.errors import ConflictError
from components.common.progress import say
from components.common.store import Store

NUMBER_DIGITS = 6
NUMBERED = re.compile(rf"(\d{{{NUMBER_DIGITS},}})\.json")
# On a mounted bucket, another process may take this long to fill a file that it has created, and a file of another machine may
# be listed this long before it can be opened: gcsfuse remembers for 5 s that a file does not exist.
EMPTY_SECONDS = 10.0

CONFLICT_ATTEMPTS = 5  # enough for five processes that change a state at once
CONFLICT_SECONDS = (
    1.0  # after the first conflict, and longer after each: gcsfuse remembers for 5 s that a folder does not exist
)

T = TypeVar("T")


def numbers_in(store: Store, folder: str) -> list[int]:
    """Return the numbers of the numbered files in a folder, ascending."""
    return sorted(int(match[1]) for name in store.names(folder) if (match := NUMBERED.fullmatch(name)))


def numbered(folder: str, number: int) -> str:
    """Return the name of a numbered file, such as champion/000017.json."""
    return f"{folder}/{number:0{NUMBER_DIGITS}d}.json"


def read_created(store: Store, name: str) -> bytes:
    """Return the content of a file that is in a listing; nothing if its creator was killed before it wrote the content."""
    deadline = time.monotonic() + EMPTY_SECONDS
    while True:
        with contextlib.suppress(FileNotFoundError):
            if content := store.read(name):
                return content
        if time.monotonic() > deadline:
            return b""
        time.sleep(EMPTY_SECONDS / 20)


def read_numbered(store: Store, folder: str) -> dict[int, bytes]:
    """Return the content of the numbered files in a folder by number, ascending, without the empty ones."""
    names = {number: numbered(folder, number) for number in numbers_in(store, folder)}
    sizes = store.files(folder)
    with store.spans((name, 0, sizes[name]) for name in names.values() if sizes.get(name)) as read:  # all at once
        contents = {
            number: read(name, 0, sizes[name]) if sizes.get(name) else read_created(store, name)
            for number, name in names.items()
        }
    return {number: content for number, content in contents.items() if content}


def repeat_on_conflict(change: Callable[[], T], again: str) -> T:
    """Return what `change` returns; repeat it, which `again` says to the user, when another process changed the state first."""
    for attempt in range(1, CONFLICT_ATTEMPTS):
        try:
            return change()
        except ConflictError as error:
            say(f"{error.problem} {again}")
        time.sleep(attempt * CONFLICT_SECONDS)
    return change()
