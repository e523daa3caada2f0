"""The files below a folder, local or behind an address: in a fixed order, each folder once, with little memory."""

from __future__ import annotations

import glob
import os
from collections.abc import Hashable, Iterator
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from components.common.addresses import find_filesystem, remote_errors, size_of, stamp_of
from components.common.errors import ConfigError, first_line

ALL = ("**", "*")
UNKNOWN = -1

Positions = frozenset[int]
NOWHERE: Positions = frozenset()
ANYWHERE: Positions = frozenset({0, 1, 2})


class Listed(NamedTuple):
    """A file: its path below the root, size in bytes, and a number that changes with its content (local: time in ns).

    Size and stamp are UNKNOWN when the file could not be looked at; why not is said when it is read.
    """

    name: bytes
    size: int
    stamp: int


class Tree(Protocol):
    """Folders that can be walked. Names are paths below the root, with forward slashes."""

    def identity(self, below: bytes) -> Hashable:
        """Return what two ways to the same folder have in common."""

    def names(self, below: bytes) -> list[bytes]:
        """Return the names in a folder in any order, those of folders with a slash at the end."""

    def status(self, name: bytes) -> tuple[int, int]:
        """Return size and stamp of a file."""


class LocalTree:
    """The folder `root` of this machine."""

    def __init__(self, root: bytes) -> None:
        self.root = root

    def identity(self, below: bytes) -> Hashable:
        """Return device and inode: symbolic links lead to the same ones. Raises ConfigError."""
        try:
            status = os.stat(self.root + b"/" + below)
        except OSError as error:
            raise _unlisted(self.root + b"/" + below, error) from None
        return status.st_dev, status.st_ino

    def names(self, below: bytes) -> list[bytes]:
        """List a folder; only names are kept, since entries with their status take five times the memory."""
        try:
            with os.scandir(self.root + b"/" + below) as entries:
                return [entry.name + b"/" if _is_folder(entry) else entry.name for entry in entries]
        except OSError as error:
            raise _unlisted(self.root + b"/" + below, error) from None

    def status(self, name: bytes) -> tuple[int, int]:
        """Return size and modification time; a link to nothing has neither."""
        return local_status(self.root + b"/" + name)


class RemoteTree:
    """The folder behind an address. A folder's listing tells sizes and stamps, so files are not asked for one by one."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._filesystem, self._root = filesystem, root.rstrip("/")
        self._known: dict[bytes, dict[str, Any]] = {}

    def identity(self, below: bytes) -> Hashable:
        """Return the folder itself: there are no links."""
        return below

    def names(self, below: bytes) -> list[bytes]:
        """List a folder. Raises ConfigError."""
        folder = f"{self._root}/{below.decode()}"
        try:
            infos = self._filesystem.ls(folder, detail=True)
        except remote_errors() as error:
            raise ConfigError(
                f"{folder} cannot be listed: {first_line(error)}.", "See that it is there and yours to read."
            ) from None
        names = []
        for info in infos:
            path = str(info["name"]).rstrip("/")
            name = path[len(folder) :]
            if path.startswith(folder) and name and "/" not in name and "?" not in name:  # not itself, nor sorting links
                is_folder = info["type"] == "directory"
                names.append(name.encode() + (b"/" if is_folder else b""))
                if not is_folder:
                    self._known[below + name.encode()] = info
        return names

    def status(self, name: bytes) -> tuple[int, int]:
        """Return size and stamp; only what the listing did not tell is asked for."""
        info = self._known.pop(name)
        return (size_of(info), stamp_of(info)) if size_of(info) >= 0 else remote_status(self._filesystem, info["name"])


def local_status(path: bytes) -> tuple[int, int]:
    """Return size and modification time (ns) of a file of this machine; UNKNOWN when it cannot be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return UNKNOWN, UNKNOWN
    return status.st_size, status.st_mtime_ns


def remote_status(filesystem: Any, path: str) -> tuple[int, int]:
    """Return size and stamp of a file behind an address; UNKNOWN when it cannot be looked at."""
    try:
        info = filesystem.info(path)
    except remote_errors():
        return UNKNOWN, UNKNOWN
    return size_of(info), stamp_of(info)


def walk(tree: Tree, pattern: tuple[str, ...] = ALL) -> Iterator[Listed]:
    """Yield the files that match a pattern (its parts between slashes), in the order of their paths as bytes.

    `**` stands for any number of folders; hidden names match only what begins with a dot, as in the shell. A folder that
    symbolic links lead to twice is entered once. Pipes, sockets and devices are listed as files. Raises ConfigError when
    a folder cannot be listed.
    """
    seen: set[tuple[Hashable, Positions]] = set()
    stack: list[tuple[bytes, Positions, list[bytes]]] = []

    def enter(below: bytes, positions: Positions) -> None:
        key = (tree.identity(below), positions)
        if key not in seen:
            seen.add(key)
            # A folder's slash takes part in the order: "a.txt" comes before "a/b", as it does among whole paths.
            stack.append((below, positions, sorted(tree.names(below), reverse=True)))

    enter(b"", _closed(pattern, {0}))
    while stack:
        below, positions, names = stack[-1]
        if not names:
            stack.pop()
            continue
        name = names.pop()
        after = _after(pattern, positions, os.fsdecode(name.rstrip(b"/")))
        if not name.endswith(b"/"):
            if len(pattern) in after:
                yield Listed(below + name, *tree.status(below + name))
        elif inside := after - {len(pattern)}:
            enter(below + name, inside)


def _after(pattern: tuple[str, ...], positions: Positions, name: str) -> Positions:
    """Return the places in the pattern that may come after `name`, when those in `positions` may come before it."""
    if pattern == ALL:  # ten million names need not be matched
        return NOWHERE if name.startswith(".") else ANYWHERE
    found = set()
    for position in positions:
        part = pattern[position] if position < len(pattern) else ""
        if name.startswith(".") and not part.startswith("."):
            continue
        if part == "**":
            found.add(position)
        elif part and fnmatchcase(name, part):
            found.add(position + 1)
    return _closed(pattern, found)


def _closed(pattern: tuple[str, ...], positions: set[int]) -> Positions:
    found = set(positions)
    for position, part in enumerate(pattern):
        if part == "**" and position in found:  # it may stand for no folder at all
            found.add(position + 1)
    return frozenset(found)


class Place(NamedTuple):
    """A root that is walked, and the pattern of the files below it; `root` is a path as bytes, or an address as str."""

    root: bytes | str
    pattern: tuple[str, ...]

    def listed(self) -> Iterator[Listed]:
        """Yield the files. Raises ConfigError when a folder cannot be listed."""
        return walk(
            LocalTree(self.root) if isinstance(self.root, bytes) else RemoteTree(*find_filesystem(self.root)), self.pattern
        )


def find_local(location: str) -> Place:
    """Return the place that a folder, a file or a pattern on this machine means; it need not exist."""
    path = Path(location).expanduser()
    if path.is_dir():
        return Place(os.fsencode(path), ALL)
    if os.path.lexists(path):  # a name may look like a pattern
        return Place(os.fsencode(path.parent), (glob.escape(path.name),))
    fixed = tuple(takewhile(lambda part: not glob.has_magic(part), path.parts[:-1]))
    return Place(os.fsencode(Path(*fixed)), path.parts[len(fixed) :])


def find_remote(address: str) -> Place:
    """Return the place that an address or a pattern behind it means. Raises ConfigError when nothing can be asked there."""
    filesystem, path = find_filesystem(address)
    try:
        is_folder, is_file = filesystem.isdir(path), filesystem.isfile(path)
    except remote_errors() as error:
        raise ConfigError(
            f'"{address}" cannot be reached: {first_line(error)}.', "See that it is there and yours to read."
        ) from None
    full = str(filesystem.unstrip_protocol(path))
    scheme, separator, rest = full.partition("://")
    if is_folder:
        return Place(full.rstrip("/"), ALL)
    parts = tuple(rest.rstrip("/").split("/"))
    fixed = parts[:-1] if is_file else tuple(takewhile(lambda part: not ("*" in part or "[" in part), parts[:-1]))
    last = (glob.escape(parts[-1]),) if is_file else parts[len(fixed) :]
    return Place(f"{scheme}{separator}{'/'.join(fixed)}", last)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle, or to where one may not look
        return False


def _unlisted(folder: bytes, error: OSError) -> ConfigError:
    return ConfigError(
        f"{os.fsdecode(folder).rstrip('/')} cannot be listed: {error.strerror}.", "Make it readable, or name another folder."
    )
