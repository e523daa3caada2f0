"""What a source consists of, found without importing Beam, TensorFlow or scikit-learn: its files, and a fingerprint."""

from __future__ import annotations

import glob
import hashlib
import importlib.metadata
import os
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from components.artifacts import digest_of
from components.errors import ConfigError
from components.ingest.config import IngestConfig


class SourceFile(NamedTuple):
    """One file of a source: its path relative to the source's root, size in bytes, modification time in nanoseconds."""

    relative: str
    size: int
    mtime_ns: int

    @property
    def id(self) -> str:
        """The relative path with forward slashes; bytes that are not UTF-8 are spelled \\xNN."""
        return os.fsencode(Path(self.relative).as_posix()).decode(errors="backslashreplace")


class FileListing(NamedTuple):
    """The files of a source in a fixed order, and the folder that their paths are relative to."""

    root: Path
    files: tuple[SourceFile, ...]


def source_fingerprint(config: IngestConfig) -> str:
    """Return a digest that changes when the content of the source changes; quick, reads no image.

    Sizes and modification times stand for the content of files. Raises ConfigError when the source does not exist.
    """
    kind, _, rest = config.source.partition(":")
    if kind == "images":
        listing = list_image_files(rest)
        return _listing_digest(kind, listing.files)
    if kind == "tfds":
        manual = list_manual_dir(config.tfds_manual_dir) if config.tfds_manual_dir else ()
        name = f"{rest} {config.tfds_split} {config.tfds_eval_split} {importlib.metadata.version('tensorflow-datasets')}"
        return _listing_digest(name, manual)
    return digest_of([kind, importlib.metadata.version("scikit-learn")])


def list_image_files(location: str) -> FileListing:
    """Return every file below the folder `location`, or every file that matches it as a pattern; no hidden files.

    Raises ConfigError when there is no such folder and nothing matches.
    """
    path = Path(location).expanduser()
    if path.is_dir():
        return FileListing(path, tuple(sorted(_walk(path, "", set()))))
    parts = path.parts[:-1]  # the last part is a file's name or a pattern of it, never part of the root
    root = Path(*takewhile(lambda part: not glob.has_magic(part), parts))
    pattern = str(path.relative_to(root)) if root != Path() else str(path)
    # glob.glob, unlike Path.glob, leaves hidden files out, as the shell does
    names = glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207
    files = tuple(sorted(_source_file(root / name, name) for name in set(names) if not (root / name).is_dir()))
    if not files:
        raise ConfigError(
            f'ingest.source = "images:{location}": {path.absolute()} is no folder, and no file matches it.',
            'Name a folder, or a pattern such as "images:/data/**/*.png".',
        )
    return FileListing(root, files)


def list_manual_dir(location: str) -> tuple[SourceFile, ...]:
    """Return the files of ingest.tfds_manual_dir. Raises ConfigError when there is no such folder."""
    folder = Path(location).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f'ingest.tfds_manual_dir = "{location}": there is no such folder.',
            "Name the folder that holds the dataset's original files, or leave it empty to let TFDS download them.",
        )
    return tuple(sorted(_walk(folder, "", set())))


def _walk(root: Path, below: str, seen: set[tuple[int, int]]) -> Iterator[SourceFile]:
    """Yield the files below a folder, also behind symbolic links; `seen` keeps links from leading in circles."""
    folder = root / below
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be listed: {error.strerror}.",
            "Make it readable, or name another folder.",
        ) from None
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(root, name, seen)
        elif entry.is_file() or entry.is_symlink():
            yield _source_file(entry, name)


def _source_file(entry: os.DirEntry[str] | Path, name: str) -> SourceFile:
    try:
        status = entry.stat()
    except OSError:  # a link to nothing: it counts as read, and decoding it says why it went to quarantine
        return SourceFile(name, 0, 0)
    return SourceFile(name, status.st_size, status.st_mtime_ns)


def _listing_digest(name: str, files: tuple[SourceFile, ...]) -> str:
    digest = hashlib.sha256(name.encode())
    for file in files:
        digest.update(b"\0" + os.fsencode(file.relative) + f"\0{file.size}\0{file.mtime_ns}".encode())
    return digest.hexdigest()
