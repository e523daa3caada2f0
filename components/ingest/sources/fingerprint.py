"""What a source consists of, found without importing Beam, TensorFlow or scikit-learn: its kind, and a fingerprint."""

from __future__ import annotations

import glob
import hashlib
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

from components.common.addresses import ARCHIVES, MANIFESTS, OTHER_ARCHIVES, is_address, local_path, suffix_in
from components.common.artifacts import digest_of
from components.common.errors import ConfigError
from components.ingest.config import IngestConfig
from components.ingest.sources.archive_members import archive_opened
from components.ingest.sources.listing import Listed, LocalTree, Place, find_local, find_remote, walk
from components.ingest.sources.manifests import read_manifest_file, sized_lines


def source_fingerprint(config: IngestConfig) -> str:
    """Return a digest that changes when the content of the source changes; quick, reads no image.

    Sizes and modification times stand for the content of files, behind an address what it tells (generation, ETag …).
    Raises ConfigError when the source does not exist.
    """
    kind, _, rest = config.source.partition(":")
    if kind == "images":
        return _digest(kind, _image_parts(rest))
    if kind == "tfds":
        manual = list_manual_dir(config.tfds_manual_dir) if config.tfds_manual_dir else iter(())
        name = f"{rest} {config.tfds_split} {config.tfds_eval_split} {importlib.metadata.version('tensorflow-datasets')}"
        return _digest(name, manual)
    return digest_of([kind, importlib.metadata.version("scikit-learn")])


def kind_of(location: str) -> str:
    """Return what an images: location is: archive, manifest or files (a folder, a file or a pattern).

    Raises ConfigError for an archive of another kind.
    """
    if not is_address(location) and Path(local_path(location)).expanduser().is_dir():
        return "files"
    if suffix_in(location, OTHER_ARCHIVES):
        raise _wrong(location, "is an archive of a kind that is not read", f"Use {', '.join(ARCHIVES)}, or unpack it.")
    for kind, suffixes in (("archive", ARCHIVES), ("manifest", MANIFESTS)):
        if suffix_in(location, suffixes):
            if has_pattern(location):
                raise _wrong(location, f"is a pattern, and only one {kind} can be read", "Name one.")
            return kind
    return "files"


def has_pattern(location: str) -> bool:
    """Say whether a location is a pattern, not the name of something that exists."""
    if is_address(location):
        return "*" in location
    return glob.has_magic(location) and not os.path.lexists(Path(local_path(location)).expanduser())


def expanded(location: str) -> str:
    """Return a location as it is opened: an address as it is, a path without file:// and ~."""
    return location if is_address(location) else str(Path(local_path(location)).expanduser())


def find_place(location: str) -> Place:
    """Return the root and pattern of a folder, a file or a pattern. Raises ConfigError when there is no such thing."""
    if is_address(location):
        return find_remote(location)
    place = find_local(local_path(location))
    if not os.path.isdir(place.root):  # bytes
        raise nothing_there(location)
    return place


def nothing_there(location: str) -> ConfigError:
    """Return the error of a location that is no folder and matches nothing."""
    where = location if is_address(location) else Path(local_path(location)).expanduser().absolute()
    return _wrong(
        location,
        f"{where} is no folder, and no file matches it",
        'Name a folder, or a pattern such as "images:/data/**/*.png".',
    )


def list_manual_dir(location: str) -> Iterator[Listed]:
    """Yield the files of ingest.tfds_manual_dir. Raises ConfigError when there is no such folder."""
    folder = Path(location).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f'ingest.tfds_manual_dir = "{location}": there is no such folder.',
            "Name the folder that holds the dataset's original files, or leave it empty to let TFDS download them.",
        )
    return walk(LocalTree(os.fsencode(folder)))


def _image_parts(location: str) -> Iterator[Listed]:
    kind = kind_of(location)
    if kind == "archive":
        with archive_opened(expanded(location)) as (_, size, stamp):
            yield Listed(b"", size, stamp)
    elif kind == "manifest":
        content = read_manifest_file(expanded(location))
        yield Listed(hashlib.sha256(content).digest(), len(content), 0)
        for line in sized_lines(expanded(location), content):
            yield Listed(os.fsencode(line.path), line.size, line.stamp)
    else:
        place = find_place(location)
        empty = True
        for file in place.listed():
            empty = False
            yield file
        if empty and place.pattern != ("**", "*"):
            raise nothing_there(location)


def _digest(name: str, files: Iterator[Listed]) -> str:
    digest = hashlib.sha256(name.encode())
    for file in files:
        digest.update(b"\0" + file.name + f"\0{file.size}\0{file.stamp}".encode())
    return digest.hexdigest()


def _wrong(location: str, problem: str, cure: str) -> ConfigError:
    return ConfigError(f'ingest.source = "images:{location}": {problem}.', cure)
