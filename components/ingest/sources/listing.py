"""Listing the files below a folder, local or remote: in a fixed order, each folder once, with little memory."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from components.common.addresses import remote_errors, size_of, stamp_of
from components.common.errors import ConfigError, first_line

ALL = ("**", "*")
UNKNOWN = -1

Positions = frozenset[int]
NOWHERE: Positions = frozenset()
ANYWHERE: Positions = frozenset({0, 1, 2})


class ListedFile(NamedTuple):
    """A file: its path below the root, size in bytes, and a number that changes with its content (local: time in ns).

    Size and stamp are UNKNOWN if they could not be read; the reason is reported when the file is.
    """

    name: bytes
    size: int
    stamp: int


class LocalTree:
    """The folder `root` of this machine. Names are paths below the root, with forward slashes."""

    def __init__(self, root: bytes) -> None:
        self.root = root

    def identity(self, below: bytes) -> Hashable:
        """Return what all paths to a folder have in common: device and inode. Raises ConfigError."""
        try:
            status = os.stat(self.root + b"/" + below)
        except OSError as error:
            raise _not_listed(os.fsdecode(self.root + b"/" + below), error) from None
        return status.st_dev, status.st_ino

    def names(self, below: bytes) -> list[bytes]:
        """Return the names in a folder, those of folders with a slash at the end. Raises ConfigError.

        Entries with their status would take five times the memory.
        """
        try:
            with os.scandir(self.root + b"/" + below) as entries:
                return [entry.name + b"/" if _is_folder(entry) else entry.name for entry in entries]
        except OSError as error:
            raise _not_listed(os.fsdecode(self.root + b"/" + below), error) from None

    def status(self, name: bytes) -> tuple[int, int]:
        """Return size and modification time in ns."""
        return local_status(self.root + b"/" + name)


class RemoteTree:
    """The same for a folder of an fsspec file system, whose listing has sizes and stamps, so files need no own request."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._filesystem, self._root = filesystem, root.rstrip("/")
        self._known: dict[bytes, dict[str, Any]] = {}

    def identity(self, below: bytes) -> Hashable:
        """Return the path: there are no links."""
        return below

    def names(self, below: bytes) -> list[bytes]:
        """Return the names in a folder, those of folders with a slash at the end. Raises ConfigError."""
        folder = f"{self._root}/{below.decode()}"
        try:
            infos = self._filesystem.ls(folder, detail=True)
        except remote_errors() as error:
            raise _not_listed(folder, error) from None
        names = []
        for info in infos:
            path = str(info["name"]).rstrip("/")
            name = path[len(folder) :]
            if path.startswith(folder) and name and "/" not in name and "?" not in name:  # not itself, no links to sort by
                is_folder = info["type"] == "directory"
                names.append(name.encode() + (b"/" if is_folder else b""))
                if not is_folder:
                    self._known[below + name.encode()] = info
        return names

    def status(self, name: bytes) -> tuple[int, int]:
        """Return size and stamp; a request is sent only if the listing had no size."""
        info = self._known.pop(name)
        return (size_of(info), stamp_of(info)) if size_of(info) >= 0 else remote_status(self._filesystem, info["name"])


Tree = LocalTree | RemoteTree


def local_status(path: bytes) -> tuple[int, int]:
    """Return size and modification time (ns) of a local file, UNKNOWN for both if it has no readable status."""
    try:
        status = os.stat(path)
    except OSError:
        return UNKNOWN, UNKNOWN
    return status.st_size, status.st_mtime_ns


def remote_status(filesystem: Any, path: str) -> tuple[int, int]:
    """Return size and stamp of a remote file, UNKNOWN for both if it has no readable status."""
    try:
        info = filesystem.info(path)
    except remote_errors():
        return UNKNOWN, UNKNOWN
    return size_of(info), stamp_of(info)


def walk(tree: Tree, pattern: tuple[str, ...] = ALL) -> Iterator[ListedFile]:
    """Yield the files that match a pattern (its parts between slashes), in the order of their paths as bytes.

    `**` matches any number of folders. As in the shell, hidden names match only parts that begin with a dot. A folder that
    several symbolic links lead to is entered once. Pipes, sockets and devices are listed as files. Raises ConfigError if a
    folder cannot be listed.
    """
    seen: set[tuple[Hashable, Positions]] = set()
    stack: list[tuple[bytes, Positions, list[bytes]]] = []

    def enter(below: bytes, positions: Positions) -> None:
        key = (tree.identity(below), positions)
        if key not in seen:
            seen.add(key)
            # The slash of a folder takes part in the order: "a.txt" comes before "a/b", as it does among whole paths.
            stack.append((below, positions, sorted(tree.names(below), reverse=True)))

    enter(b"", _with_empty_matches(pattern, {0}))
    while stack:
        below, positions, names = stack[-1]
        if not names:
            stack.pop()
            continue
        name = names.pop()
        after = _after(pattern, positions, os.fsdecode(name.rstrip(b"/")))
        if not name.endswith(b"/"):
            if len(pattern) in after:
                yield ListedFile(below + name, *tree.status(below + name))
        elif inside := after - {len(pattern)}:
            enter(below + name, inside)


def _after(pattern: tuple[str, ...], positions: Positions, name: str) -> Positions:
    """Return the positions in the pattern that can follow `name`, if those in `positions` can precede it."""
    if pattern == ALL:  # a shortcut for folders of ten million names
        return NOWHERE if name.startswith(".") else ANYWHERE
    after = set()
    for position in positions:
        part = pattern[position] if position < len(pattern) else ""
        if name.startswith(".") and not part.startswith("."):
            continue
        if part == "**":
            after.add(position)
        elif part and fnmatchcase(name, part):
            after.add(position + 1)
    return _with_empty_matches(pattern, after)


def _with_empty_matches(pattern: tuple[str, ...], positions: set[int]) -> Positions:
    """Add the positions that are reached because `**` also matches no folder at all."""
    reached = set(positions)
    for position, part in enumerate(pattern):
        if part == "**" and position in reached:
            reached.add(position + 1)
    return frozenset(reached)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle, or into a folder without permission
        return False


def _not_listed(folder: str, error: BaseException) -> ConfigError:
    return ConfigError(f"{folder.rstrip('/')} cannot be listed: {first_line(error)}.", "Check that it exists and is readable.")
