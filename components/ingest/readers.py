"""Readers: each turns a source into a PCollection of encoded images; TensorFlow is imported for `tfds:` alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from components.errors import DataRejectedError
from components.ingest.config import IngestConfig
from components.ingest.quiet_beam import beam
from components.ingest.sources import FileListing, list_image_files
from components.records import NO_LABEL

FILES_PER_ELEMENT = 256


class RawImage(NamedTuple):
    """One image before decoding: id, label, the split it must go to ("" lets its hash decide), and its file's bytes.

    Instead of `content`, `path` may name the file (as bytes: its name need not be UTF-8), to be read by the worker.
    """

    id: str
    label: int
    split: str
    content: bytes
    path: bytes = b""


class Reader(NamedTuple):
    """A source that is ready to be read: its number of images, its label names, and how a pipeline reads it."""

    total: int
    label_names: tuple[str, ...]
    read: Callable[[Any], Any]


def open_source(config: IngestConfig) -> Reader:
    """Return the reader of config.source.

    Raises ConfigError when the source does not exist or cannot be prepared, DataRejectedError when it holds no file.
    """
    kind, _, rest = config.source.partition(":")
    if kind == "tfds":
        from components.ingest.tfds_reader import open_tfds  # TensorFlow: seconds that other sources need not spend

        return open_tfds(config, rest)
    if kind == "images":
        return _open_images(list_image_files(rest), config.labels_from_folders)
    return Reader(1797, tuple("0123456789"), _read_digits)


def _read_digits(pipeline: Any) -> Any:
    return pipeline | "Name digits" >> beam.Create(["digits"]) | "Load digits" >> beam.FlatMap(load_digits)


def load_digits(name: str) -> Iterator[RawImage]:
    """Yield scikit-learn's 1,797 handwritten digits, 8×8, their 17 grey levels spread over 0 to 255."""
    from sklearn import datasets

    digits = datasets.load_digits()
    levels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for index, (pixels, label) in enumerate(zip(levels, digits.target, strict=True)):
        # A PGM file is a header and the pixels, so digits take the same way as every other image at no cost.
        yield RawImage(f"{name}/{index:05d}", int(label), "", b"P5 8 8 255\n" + pixels.tobytes())


def _open_images(listing: FileListing, labels_from_folders: bool) -> Reader:
    if not listing.files:
        raise DataRejectedError(
            f"{listing.root.absolute()} holds no file (hidden ones do not count).", "Name a folder with images."
        )
    names = folder_names(listing) if labels_from_folders else ()
    label_of = {name: label for label, name in enumerate(names)}
    rows = (
        (file.id, label_of.get(PurePosixPath(file.relative).parent.name, NO_LABEL), bytes(listing.root / file.relative))
        for file in listing.files
    )
    chunks = list(iter(lambda: list(islice(rows, FILES_PER_ELEMENT)), []))

    def read(pipeline: Any) -> Any:
        return pipeline | "List files" >> beam.Create(chunks) | "Name files" >> beam.FlatMap(name_files)

    return Reader(len(listing.files), names, read)


def folder_names(listing: FileListing) -> tuple[str, ...]:
    """Return the names of the folders that hold files, sorted; files at the root itself have no label."""
    return tuple(sorted({PurePosixPath(file.relative).parent.name for file in listing.files} - {""}))


def name_files(chunk: list[tuple[str, int, bytes]]) -> Iterator[RawImage]:
    """Yield a chunk's files one by one, unread."""
    return (RawImage(id, label, "", b"", path) for id, label, path in chunk)


def read_content(image: RawImage) -> bytes:
    """Return the bytes of an image's file. Raises OSError when it cannot be read."""
    return Path(image.path.decode(errors="surrogateescape")).read_bytes() if image.path else image.content
