"""Which files an `images:` location means: an archive, a manifest, or all files of a folder or pattern."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from components.common.addresses import (
    ARCHIVES,
    MANIFESTS,
    OTHER_ARCHIVES,
    find_filesystem,
    is_address,
    local_path,
    remote_errors,
    suffix_in,
)
from components.common.errors import ConfigError, first_line
from components.ingest.sources.listing import ALL, ListedFile, LocalTree, RemoteTree, walk


class FilePattern(NamedTuple):
    """A root folder and the pattern of the files below it; `root` is a path as bytes, or a URL as str."""

    root: bytes | str
    parts: tuple[str, ...]

    def files(self) -> Iterator[ListedFile]:
        """Yield the files. Raises ConfigError when a folder cannot be listed."""
        tree = LocalTree(self.root) if isinstance(self.root, bytes) else RemoteTree(*find_filesystem(self.root))
        return walk(tree, self.parts)


def kind_of(location: str) -> str:
    """Return the kind of a location: archive, manifest or files (a folder, a file or a pattern).

    Raises ConfigError for an archive of an unsupported kind.
    """
    if not is_address(location) and Path(expanded(location)).is_dir():
        return "files"
    if suffix_in(location, OTHER_ARCHIVES):
        raise _wrong(location, "this kind of archive is not supported", f"Use {', '.join(ARCHIVES)}, or unpack it.")
    for kind, suffixes in (("archive", ARCHIVES), ("manifest", MANIFESTS)):
        if suffix_in(location, suffixes):
            if has_pattern(location):
                raise _wrong(location, f"a pattern cannot name more than one {kind}", f"Name one {kind}.")
            return kind
    return "files"


def has_pattern(location: str) -> bool:
    """Return whether a location is a pattern and not the name of something that exists."""
    if is_address(location):
        return "*" in location
    return glob.has_magic(location) and not os.path.lexists(expanded(location))


def expanded(location: str) -> str:
    """Return a URL unchanged, and a local path without file:// and ~."""
    return location if is_address(location) else str(Path(local_path(location)).expanduser())


def find_files(location: str) -> FilePattern:
    """Return the root and pattern of a folder, a file or a pattern. Raises ConfigError if its root does not exist."""
    if is_address(location):
        return _remote_pattern(location)
    path = Path(expanded(location))
    if path.is_dir():
        return FilePattern(os.fsencode(path), ALL)
    if os.path.lexists(path):  # a name can look like a pattern
        return FilePattern(os.fsencode(path.parent), (glob.escape(path.name),))
    fixed = tuple(takewhile(lambda part: not glob.has_magic(part), path.parts[:-1]))
    if not Path(*fixed).is_dir():
        raise not_found(location)
    return FilePattern(os.fsencode(Path(*fixed)), path.parts[len(fixed) :])


def _remote_pattern(url: str) -> FilePattern:
    filesystem, path = find_filesystem(url)
    try:
        is_folder, is_file = filesystem.isdir(path), filesystem.isfile(path)
    except remote_errors() as error:
        raise ConfigError(f'"{url}" cannot be reached: {first_line(error)}.', "Check that it exists and is readable.") from None
    full = str(filesystem.unstrip_protocol(path))
    scheme, separator, rest = full.partition("://")
    if is_folder:
        return FilePattern(full.rstrip("/"), ALL)
    parts = tuple(rest.rstrip("/").split("/"))
    fixed = parts[:-1] if is_file else tuple(takewhile(lambda part: not ("*" in part or "[" in part), parts[:-1]))
    last = (glob.escape(parts[-1]),) if is_file else parts[len(fixed) :]
    return FilePattern(f"{scheme}{separator}{'/'.join(fixed)}", last)


def not_found(location: str) -> ConfigError:
    """Return the error for a location that is not a folder and matches no file."""
    where = location if is_address(location) else Path(expanded(location)).absolute()
    return _wrong(
        location,
        f"{where} is not a folder, and no file matches it",
        'Name a folder, or a pattern such as "images:/data/**/*.png".',
    )


def _wrong(location: str, problem: str, cure: str) -> ConfigError:
    return ConfigError(f'ingest.source = "images:{location}": {problem}.', cure)
