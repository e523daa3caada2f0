"""A fingerprint of a source, computed without importing Beam, TensorFlow or scikit-learn."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

from components.common.artifacts import digest_of
from components.common.errors import ConfigError
from components.ingest.config import IngestConfig
from components.ingest.sources.archive_members import archive_opened
from components.ingest.sources.listing import ALL, ListedFile, LocalTree, walk
from components.ingest.sources.location import expanded, find_files, kind_of, not_found
from components.ingest.sources.manifests import read_manifest_file, sized_lines
from components.ingest.sources.saved_listing import saved_while_listed


def source_fingerprint(config: IngestConfig, listing: Path | None = None) -> str:
    """Return a digest that changes when the content of the source changes; no image is read.

    If the source is a folder or a pattern, its files are also written to `listing`, for ingest. The digest covers the sizes and
    modification times of files, and of remote files their generation, ETag or the like. Raises ConfigError when the source does
    not exist.
    """
    kind, _, rest = config.source.partition(":")
    if kind == "images":
        return _digest(kind, _image_files(rest, listing))
    if kind == "tfds":
        manual = list_manual_dir(config.tfds_manual_dir) if config.tfds_manual_dir else iter(())
        name = f"{rest} {config.tfds_split} {config.tfds_eval_split} {importlib.metadata.version('tensorflow-datasets')}"
        return _digest(name, manual)
    return digest_of([kind, importlib.metadata.version("scikit-learn")])


def list_manual_dir(location: str) -> Iterator[ListedFile]:
    """Yield the files of ingest.tfds_manual_dir. Raises ConfigError when there is no such folder."""
    folder = Path(location).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f'ingest.tfds_manual_dir = "{location}": there is no such folder.',
            "Name the folder that holds the original files of the dataset, or leave it empty to let TFDS download them.",
        )
    return walk(LocalTree(os.fsencode(folder)))


def _image_files(location: str, listing: Path | None) -> Iterator[ListedFile]:
    kind = kind_of(location)
    if kind == "archive":
        with archive_opened(expanded(location)) as (_, size, stamp):
            yield ListedFile(b"", size, stamp)
    elif kind == "manifest":
        content = read_manifest_file(expanded(location))
        yield ListedFile(hashlib.sha256(content).digest(), len(content), 0)
        for line in sized_lines(expanded(location), content):
            yield ListedFile(os.fsencode(line.path), line.size, line.stamp)
    else:
        pattern = find_files(location)
        empty = True
        files = pattern.files()
        for file in saved_while_listed(files, listing) if listing else files:
            empty = False
            yield file
        if empty and pattern.parts != ALL:
            raise not_found(location)


def _digest(name: str, files: Iterator[ListedFile]) -> str:
    digest = hashlib.sha256(name.encode())
    for file in files:
        digest.update(b"\0" + file.name + f"\0{file.size}\0{file.stamp}".encode())
    return digest.hexdigest()
