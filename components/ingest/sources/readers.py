"""Sources: the main process lists a source as chunks of images, and a worker reads the images of one chunk.

Workers never import TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from components.common.errors import DataRejectedError
from components.ingest.config import IngestConfig
from components.ingest.sources.archive_members import read_tar_gz_members, read_tar_members, read_zip_members
from components.ingest.sources.archives import open_archive
from components.ingest.sources.chunks import Chunk, ChunkPacker, RawImage, Reader, Unread, folder_label
from components.ingest.sources.files import read_local_files, read_remote_files
from components.ingest.sources.listing import ALL
from components.ingest.sources.location import expanded, find_files, kind_of, not_found
from components.ingest.sources.manifests import open_manifest
from components.ingest.sources.saved_listing import read_listing
from components.ingest.sources.tfds_files import read_array_records, read_tfrecords


def open_source(config: IngestConfig, listing: Path | None = None) -> Reader:
    """Return the reader of config.source; the files of a folder are those of `listing`, if that was saved (saved_listing.py).

    Raises ConfigError when the source does not exist or cannot be prepared, DataRejectedError when it is empty or a damaged
    archive.
    """
    kind, _, rest = config.source.partition(":")
    if kind == "tfds":
        from components.ingest.sources.tfds_reader import open_tfds  # here, because it imports TensorFlow

        return open_tfds(config, rest)
    if kind == "images":
        return _open_images(rest, config, listing)
    return Reader(1797, tuple("0123456789"), [("digits",)])


def read_chunk(chunk: Chunk) -> Iterator[RawImage | Unread]:
    """Yield exactly one item for each image of the chunk; an image that cannot be read is Unread, never an exception."""
    kind, *rest = chunk
    return KINDS[kind](*rest)


def load_digits() -> Iterator[RawImage]:
    """Yield the 1,797 handwritten digits of scikit-learn, 8×8 pixels, their 17 grey levels spread over 0 to 255."""
    # The file is read without scikit-learn, whose import takes longer than the rest of ingest for so few images.
    package = Path(find_spec("sklearn").origin).parent  # type: ignore[union-attr, arg-type] # it is installed
    digits = np.loadtxt(package / "datasets/data/digits.csv.gz", delimiter=",")  # 64 grey levels from 0 to 16, then the label
    levels = np.rint(digits[:, :-1] * (255 / 16)).astype(np.uint8)
    for index, (pixels, label) in enumerate(zip(levels, digits[:, -1], strict=True)):
        # As PGM files (a header and the pixels), digits are decoded like all other images at no cost.
        yield RawImage(f"digits/{index:05d}", int(label), "", b"P5 8 8 255\n" + pixels.tobytes())


def _open_images(location: str, config: IngestConfig, listing: Path | None) -> Reader:
    kind = kind_of(location)
    if kind == "archive":
        reader = open_archive(expanded(location), config.max_bytes, config.labels_from_folders)
    elif kind == "manifest":
        reader = open_manifest(expanded(location), config.max_bytes)
    else:
        reader = _open_files(location, config, listing)
    if not reader.total:
        raise DataRejectedError(f"{expanded(location)} contains no files except hidden ones.", "Name a source of images.")
    return reader


def _open_files(location: str, config: IngestConfig, listing: Path | None) -> Reader:
    pattern = find_files(location)
    packer = ChunkPacker("files" if isinstance(pattern.root, bytes) else "remote", pattern.root, config.max_bytes)
    for file in read_listing(listing) if listing and listing.is_file() else pattern.files():
        label = folder_label(file.name) if config.labels_from_folders else ""
        packer.add(file.name, min(file.size, config.max_bytes), (file.size, file.stamp), label)
    if not packer.total and pattern.parts != ALL:
        raise not_found(location)
    return packer.reader()


KINDS: dict[str, Callable[..., Iterator[RawImage | Unread]]] = {
    "digits": load_digits,
    "files": read_local_files,
    "remote": read_remote_files,
    "tar": read_tar_members,
    "tar.gz": read_tar_gz_members,
    "zip": read_zip_members,
    "tfrecord": read_tfrecords,
    "array_record": read_array_records,
}
