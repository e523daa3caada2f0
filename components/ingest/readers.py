"""Sources as chunks: the main process lists a source as chunks of images, a worker reads the images of a chunk.

A chunk is a tuple of plain values, which Beam encodes without pickle; its first item names its kind. Workers import no
TensorFlow, whatever the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from components.errors import DataRejectedError
from components.ingest.config import IngestConfig
from components.ingest.sources import FileListing, list_image_files
from components.records import NO_LABEL, parse_example, read_tfrecord_part

FILES_PER_CHUNK = 256

Chunk = tuple[Any, ...]


class RawImage(NamedTuple):
    """One image before decoding: id, label, the split it must go to ("" lets its hash decide), and its file's bytes."""

    id: str
    label: int
    split: str
    content: bytes


class Unread(NamedTuple):
    """An image that could not be read: a short reason that never varies, what was found, and its first bytes if any."""

    id: str
    reason: str
    detail: str
    head: bytes = b""


class Reader(NamedTuple):
    """A source that is ready to be read: its number of images, its label names, and its chunks."""

    total: int
    label_names: tuple[str, ...]
    chunks: list[Chunk]


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
    return Reader(1797, tuple("0123456789"), [("digits",)])


def read_chunk(chunk: Chunk) -> Iterator[RawImage | Unread]:
    """Yield exactly one item for each image that the chunk lists; one that cannot be read is Unread, never an exception."""
    kind, *rest = chunk
    return KINDS[kind](*rest)


def load_digits() -> Iterator[RawImage]:
    """Yield scikit-learn's 1,797 handwritten digits, 8×8, their 17 grey levels spread over 0 to 255."""
    from sklearn import datasets

    digits = datasets.load_digits()
    levels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for index, (pixels, label) in enumerate(zip(levels, digits.target, strict=True)):
        # A PGM file is a header and the pixels, so digits take the same way as every other image at no cost.
        yield RawImage(f"digits/{index:05d}", int(label), "", b"P5 8 8 255\n" + pixels.tobytes())


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
    chunks: list[Chunk] = [("files", part) for part in iter(lambda: tuple(islice(rows, FILES_PER_CHUNK)), ())]
    return Reader(len(listing.files), names, chunks)


def folder_names(listing: FileListing) -> tuple[str, ...]:
    """Return the names of the folders that hold files, sorted; files at the root itself have no label."""
    return tuple(sorted({PurePosixPath(file.relative).parent.name for file in listing.files} - {""}))


def read_files(files: tuple[tuple[str, int, bytes], ...]) -> Iterator[RawImage | Unread]:
    """Read files: id, label and path (as bytes: a name need not be UTF-8)."""
    for id, label, path in files:
        try:
            content = Path(path.decode(errors="surrogateescape")).read_bytes()
        except OSError as error:
            yield Unread(id, "unreadable file", error.strerror or str(error))
        else:
            yield RawImage(id, label, "", content)


def read_tfds_part(
    file: str, first_byte: int, first_number: int, count: int, split: str, name: str, labelled: bool
) -> Iterator[RawImage | Unread]:
    """Read `count` records of a TFDS file; ids are those that TFDS itself gives, file name and number in the file."""
    for number, serialized in enumerate(read_tfrecord_part(Path(file), first_byte, count), start=first_number):
        features = parse_example(serialized)
        label = features["label"].int64_list.value[0] if labelled else NO_LABEL
        content = features["image"].bytes_list.value[0]
        yield RawImage(f"{name}/{Path(file).name}__{number}", int(label), split, content)


KINDS: dict[str, Callable[..., Iterator[RawImage | Unread]]] = {
    "digits": load_digits,
    "files": read_files,
    "tfds": read_tfds_part,
}
