"""Chunks: the images of a source in portions that one worker reads in order.

A chunk is a tuple of plain values, which Beam encodes without pickle. Its first item is its kind. Names and numbers are
compressed, so that a source of ten million files fits into the memory of the main process. A chunk depends on the source alone.
"""

from __future__ import annotations

import hashlib
import zlib
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

IMAGES_PER_CHUNK = 256
BYTES_PER_CHUNK = 32 * 2**20
HEAD_BYTES = 4096  # first bytes of an unreadable file, whose digest is in the quarantine
NO_LABEL = -1  # as in components.dataset.records, which imports NumPy; computing a fingerprint must not
SPLIT_CODES = ("", "train", "eval")

Chunk = tuple[Any, ...]


class RawImage(NamedTuple):
    """One image before decoding: id, label, its split ("": chosen by hash), and the bytes of its file."""

    id: str
    label: int
    split: str
    content: bytes


class Unread(NamedTuple):
    """An image that could not be read: a fixed reason, details, and the first bytes of its file if there are any."""

    id: str
    reason: str
    detail: str
    head: bytes = b""


class Reader(NamedTuple):
    """A listed source: its number of images, its label names, and its chunks."""

    total: int
    label_names: tuple[str, ...]
    chunks: list[Chunk]


class CannotReadError(Exception):
    """One image cannot be read: a fixed reason, details, and the first bytes of its file if there are any.

    Both texts are written to quarantine.jsonl: changing a word changes the digests of datasets.
    """

    def __init__(self, reason: str, detail: str, head: bytes = b"") -> None:
        self.reason, self.detail, self.head = reason, detail, head
        super().__init__(reason, detail)


class ListedImage(NamedTuple):
    """One image of a chunk: name, id (the name as UTF-8, other bytes as \\xNN), label, split, and numbers of its kind."""

    name: bytes
    id: str
    label: int
    split: str
    numbers: tuple[int, ...]

    def unread(self, error: CannotReadError) -> Unread:
        """Return the item for this image when it cannot be read."""
        return Unread(self.id, error.reason, error.detail, error.head)


class ChunkPacker:
    """Packs images into chunks of at most 256 images and about 32 MiB; with `whole`, into a single chunk."""

    def __init__(self, *head: Any, whole: bool = False) -> None:
        self._head, self._whole = head, whole
        self._labels: dict[str, int] = {}  # provisional numbers: the final ones are known once all names are
        self._parts: list[tuple[bytes, bytes, array[int], bytes]] = []
        self.total = 0
        self._start()

    def _start(self) -> None:
        self._names: list[bytes] = []
        self._numbers, self._label_of, self._splits = array("q"), array("i"), bytearray()
        self._bytes = 0

    def add(self, name: bytes, size: int, numbers: tuple[int, ...], label: str = "", split: str = "") -> None:
        """Add an image: name, bytes to read, the numbers that its kind needs, label ("": none) and split."""
        self._names.append(name.replace(b"\0", b"?"))  # NUL separates names; only names in archives can contain it
        self._numbers.extend(numbers)
        self._label_of.append(self._labels.setdefault(label, len(self._labels)) if label else NO_LABEL)
        self._splits.append(SPLIT_CODES.index(split))
        self._bytes += max(size, 0)
        self.total += 1
        if not self._whole and (len(self._names) == IMAGES_PER_CHUNK or self._bytes >= BYTES_PER_CHUNK):
            self._close()

    def _close(self) -> None:
        names, numbers = (zlib.compress(data, 1) for data in (b"\0".join(self._names), self._numbers.tobytes()))
        self._parts.append((names, numbers, self._label_of, zlib.compress(self._splits, 1)))
        self._start()

    def reader(self) -> Reader:
        """Return the reader of all images added. Labels are numbered in the order of their names."""
        if self._names:
            self._close()
        names = sorted_labels(self._labels)
        number_of = {self._labels[name]: number for number, name in enumerate(names)} | {NO_LABEL: NO_LABEL}
        chunks: list[Chunk] = []
        for packed_names, numbers, labels, splits in self._parts:
            final = array("i", [number_of[label] for label in labels])
            chunks.append((*self._head, packed_names, numbers, zlib.compress(final.tobytes(), 1), splits))
        self._parts.clear()
        return Reader(self.total, names, chunks)


def listed_images(names: bytes, numbers: bytes, labels: bytes, splits: bytes) -> Iterator[ListedImage]:
    """Yield the images of a chunk, from its last four items."""
    names_list = zlib.decompress(names).split(b"\0")
    label_of, number_of = (array(code, zlib.decompress(data)) for code, data in (("i", labels), ("q", numbers)))
    width = len(number_of) // len(names_list)
    for index, (name, label, code) in enumerate(zip(names_list, label_of, zlib.decompress(splits), strict=True)):
        yield ListedImage(name, id_of(name), label, SPLIT_CODES[code], tuple(number_of[index * width : (index + 1) * width]))


def id_of(name: bytes) -> str:
    """Return a name as text; bytes that are not UTF-8 become \\xNN."""
    return name.decode(errors="backslashreplace")


def digest_number(name: bytes) -> int:
    """Return a 64-bit digest of a name, which takes less memory than the name."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")


def folder_label(name: bytes) -> str:
    """Return the name of the folder that holds an image; "" for an image at the root of its source."""
    return id_of(name.rpartition(b"/")[0].rpartition(b"/")[2])


def sorted_labels(names: dict[str, int]) -> tuple[str, ...]:
    """Return label names in order: by value where all are numbers, else by name."""
    numeric = all(name.isascii() and name.isdigit() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numeric else 0, name)))
