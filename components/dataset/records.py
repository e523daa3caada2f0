"""Images as sharded TFRecords of tf.train.Example, written and read without TensorFlow.

Importing TensorFlow takes seconds and hundreds of megabytes in every Beam worker, and no smaller package has these messages.
So the TFRecord framing and the messages are written out here; tests/unit/dataset/test_records.py shows that TensorFlow reads
and writes the same bytes. An example has `image` (uint8, height × width × channels, row-major), `label` (int64, -1 for none),
`id` (UTF-8), `height` and `width` (int64, pixels of the image before it was resized).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from components.common.artifacts import FileEntry, Manifest, digest_mismatch, read_manifest
from components.common.errors import ArtifactError, first_line

SPLITS = ("train", "eval")
NO_LABEL = -1
READ_BYTES = 1 << 20  # at once; a mounted bucket answers each read with a message
HEADER_BYTES, FOOTER_BYTES = 12, 4  # of a record in a TFRecord file: length and its checksum before the data, checksum after
# From tensorflow/core/example/{feature,example}.proto, whose field numbers never change.
EXAMPLE_PROTO = """
name: "wgan/example.proto" package: "tensorflow" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type {
  name: "Feature"
  oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type_name: ".tensorflow.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 label: LABEL_OPTIONAL type_name: ".tensorflow.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type_name: ".tensorflow.Int64List" oneof_index: 0 }
}
message_type {
  name: "Features"
  nested_type {
    name: "FeatureEntry"
    options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type_name: ".tensorflow.Feature" }
  }
  field { name: "feature" number: 1 label: LABEL_REPEATED type_name: ".tensorflow.Features.FeatureEntry" }
}
message_type { name: "Example" field { name: "features" number: 1 label: LABEL_OPTIONAL type_name: ".tensorflow.Features" } }
"""


class Record(NamedTuple):
    """One image: uint8 [size, size, channels], label (NO_LABEL for none), id, and the size of the source image in pixels.

    `height` and `width` are 0 in datasets of older versions, which do not record them.
    """

    image: npt.NDArray[np.uint8]
    label: int
    id: str
    height: int = 0
    width: int = 0


class ImageSet(NamedTuple):
    """A whole split in memory: images uint8 [N, height, width, channels], labels int64 [N], ids."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    ids: tuple[str, ...]


def shard_name(split: str, index: int, count: int) -> str:
    """Return the file name of a shard, in the form that TensorFlow's tools use."""
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def shard_files(dataset: Path, manifest: Manifest, split: str) -> list[Path]:
    """Return the shards of a split in their fixed order."""
    return [dataset / name for name in sorted(manifest.files) if name.startswith(f"{split}-")]


def encode_example(record: Record) -> bytes:
    """Serialize a record as a tf.train.Example; the same record always gives the same bytes."""
    return encode_pixels(record.image.tobytes(), record.label, record.id, record.height, record.width)


def encode_pixels(pixels: bytes, label: int, id: str, height: int, width: int) -> bytes:
    """Serialize an image whose pixels are bytes already; see `encode_example`."""
    example = _example_class()()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(pixels)
    feature["label"].int64_list.value.append(label)
    feature["id"].bytes_list.value.append(id.encode())
    feature["height"].int64_list.value.append(height)
    feature["width"].int64_list.value.append(width)
    return bytes(example.SerializeToString(deterministic=True))


def decode_example(serialized: bytes, image_size: int, channels: int) -> Record:
    """Parse a serialized tf.train.Example. Raises ArtifactError when the image has another size."""
    feature = parse_example(serialized)
    raw = feature["image"].bytes_list.value[0]
    if len(raw) != image_size * image_size * channels:
        raise ArtifactError(
            f"A record holds {len(raw)} bytes, {image_size}×{image_size}×{channels} are expected.", "Run ingest again."
        )
    image = np.frombuffer(raw, np.uint8).reshape(image_size, image_size, channels)
    label, id = int(feature["label"].int64_list.value[0]), feature["id"].bytes_list.value[0].decode()
    height, width = (next(iter(feature[name].int64_list.value), 0) for name in ("height", "width"))
    return Record(image, label, id, height, width)


def parse_example(serialized: bytes) -> Any:
    """Return the features of any serialized tf.train.Example: a mapping of name to Feature."""
    example = _example_class()()
    example.ParseFromString(serialized)
    return example.features.feature


def write_tfrecord(file: Path, serialized: Iterable[bytes]) -> int:
    """Write a TFRecord file; return the number of records."""
    count = 0
    with file.open("wb") as stream:
        for data in serialized:
            stream.write(framed(data))
            count += 1
    return count


def framed(data: bytes) -> bytes:
    """Return a record in TFRecord framing: length, masked CRC-32C of the length, data, masked CRC-32C of the data."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


def is_whole(frame: bytes) -> bool:
    """Return whether the length and the checksums of a framed record are right."""
    header, data, crc = frame[:HEADER_BYTES], frame[HEADER_BYTES:-FOOTER_BYTES], frame[-FOOTER_BYTES:]
    right_length = len(header) == HEADER_BYTES and header == struct.pack("<Q", len(data)) + _masked_crc(header[:8])
    return right_length and crc == _masked_crc(data)


def read_tfrecord(file: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file. Raises ArtifactError for a truncated file or a wrong checksum."""
    return read_tfrecord_part(file, 0, sys.maxsize)


def read_tfrecord_part(file: Path, first_byte: int, count: int) -> Iterator[bytes]:
    """Yield at most `count` records, starting with the one whose header is at `first_byte`. Raises as `read_tfrecord` does."""
    with file.open("rb") as stream:
        stream.seek(first_byte)
        while count and (header := stream.read(HEADER_BYTES)):
            count -= 1
            length = _data_length(header, file, stream.tell())
            yield _checked_data(stream.read(length + FOOTER_BYTES), length, file, stream.tell())


def scan_tfrecord(file: Path, entry: FileEntry) -> Iterator[tuple[int, bytes]]:
    """Yield first byte and data of each record, in one pass that checks the whole file against its entry in the manifest.

    The checksum of each record is right; whether the file is the one of the manifest is known after the last record. Raises
    ArtifactError when it is not, or when a record is damaged.
    """
    digest, end = hashlib.sha256(), 0
    mismatch = digest_mismatch(file.parent, file.name)
    with _disk_errors_named(file), file.open("rb", buffering=READ_BYTES) as stream:
        while header := stream.read(HEADER_BYTES):
            start = end + HEADER_BYTES
            try:
                length = _data_length(header, file, start)
                frame = stream.read(length + FOOTER_BYTES)
                data = _checked_data(frame, length, file, start + length)
            except ArtifactError:
                raise mismatch from None
            digest.update(header)
            digest.update(frame)
            end = start + len(frame)
            yield start, data
    if end != entry.bytes or digest.hexdigest() != entry.sha256:
        raise mismatch


def read_first(dataset: Path, split: str, count: int) -> npt.NDArray[np.uint8]:
    """Return the first images of a split, at most `count`: uint8 [N, H, W, C]. Reads no further than that."""
    manifest = read_manifest(dataset, "dataset", verify=False)
    size, channels = int(manifest.details["image_size"]), int(manifest.details["channels"])
    records = (record for file in shard_files(dataset, manifest, split) for record in read_tfrecord(file))
    images = [decode_example(record, size, channels).image for record in itertools.islice(records, count)]
    return np.stack(images) if images else np.empty((0, size, size, channels), np.uint8)


def read_split(dataset: Path, split: str) -> ImageSet:
    """Read one split of a dataset artifact into memory, in the order of its shards."""
    manifest = read_manifest(dataset, "dataset", verify=False)
    size, channels = int(manifest.details["image_size"]), int(manifest.details["channels"])
    images = np.empty((manifest.counts[split], size, size, channels), np.uint8)
    labels = np.empty(manifest.counts[split], np.int64)
    ids: list[str] = []
    for file in shard_files(dataset, manifest, split):
        for serialized in read_tfrecord(file):
            record = decode_example(serialized, size, channels)
            images[len(ids)], labels[len(ids)] = record.image, record.label
            ids.append(record.id)
    return ImageSet(images, labels, tuple(ids))


class SplitIndex:
    """Random access to the records of a split, in the order of `read_split`.

    Building it reads the shards once and checks their digests; `each` is called with the data of each record meanwhile. It
    takes 16 bytes of memory for each record. Raises ArtifactError when a shard is damaged, missing or truncated, or when the
    manifest has another number of records.
    """

    def __init__(self, dataset: Path, split: str, each: Callable[[bytes], object] = len) -> None:
        manifest = read_manifest(dataset, "dataset", verify=False)
        self.files = shard_files(dataset, manifest, split)
        positions = [self._scan(file, manifest.files[file.name], each) for file in self.files]
        self._positions = np.concatenate([np.empty((0, 2), np.int64), *positions])
        self._first_of_next = np.cumsum([len(part) for part in positions])
        if len(self._positions) != manifest.counts[split]:
            raise ArtifactError(
                f"{dataset} has {len(self._positions)} {split} records, its manifest counts {manifest.counts[split]}.",
                "Run ingest again.",
            )

    @staticmethod
    def _scan(file: Path, entry: FileEntry, each: Callable[[bytes], object]) -> npt.NDArray[np.int64]:
        """Return first byte and length of each record's data, int64 [N, 2]."""
        positions = array("q")
        for start, data in scan_tfrecord(file, entry):
            each(data)
            positions.extend((start, len(data)))
        return np.frombuffer(positions, np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, numbers: npt.NDArray[np.integer]) -> list[bytes]:
        """Return the records with these numbers: at least one, in ascending order. Raises as `read_tfrecord` does."""
        shards = np.searchsorted(self._first_of_next, numbers, side="right")
        records = []
        for run in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(shards)) + 1):
            file = self.files[shards[run[0]]]
            with _disk_errors_named(file), file.open("rb") as stream:
                for start, length in self._positions[numbers[run]].tolist():
                    # pread, not mmap: mapped pages count as resident memory of the process, which must not grow with the data.
                    frame = os.pread(stream.fileno(), length + FOOTER_BYTES, start)
                    records.append(_checked_data(frame, length, file, start + length))
        return records


def record_positions(file: Path) -> npt.NDArray[np.int64]:
    """Return first byte and length of each record's data in a TFRecord file, int64 [N, 2], from the headers alone.

    Raises ArtifactError for a truncated file or a header with a wrong checksum. The data is checked when it is read.
    """
    positions: list[tuple[int, int]] = []
    with _disk_errors_named(file), file.open("rb") as stream:
        end, size = 0, os.fstat(stream.fileno()).st_size
        while end < size:
            start = end + HEADER_BYTES
            length = _data_length(os.pread(stream.fileno(), HEADER_BYTES, end), file, start)
            end = start + length + FOOTER_BYTES
            if end > size:
                raise _damaged(file, start)
            positions.append((start, length))
    return np.array(positions, np.int64).reshape(-1, 2)


@contextlib.contextmanager
def _disk_errors_named(file: Path) -> Iterator[None]:
    """Turn an OSError while `file` is read into an ArtifactError."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"Cannot read {file}: {first_line(error)}.", "Check the disk, or run ingest again.") from error


def _data_length(header: bytes, file: Path, byte: int) -> int:
    if len(header) < HEADER_BYTES or _masked_crc(header[:8]) != header[8:]:
        raise _damaged(file, byte)
    (length,) = struct.unpack("<Q", header[:8])
    return int(length)


def _checked_data(frame: bytes, length: int, file: Path, byte: int) -> bytes:
    """Return the data of a record, from the data and the checksum that follows it."""
    data = frame[:length]
    if len(frame) < length + FOOTER_BYTES or frame[length:] != _masked_crc(data):
        raise _damaged(file, byte)
    return data


def _damaged(file: Path, byte: int) -> ArtifactError:
    return ArtifactError(f"{file} is damaged at byte {byte}.", "Run ingest again.")


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


@functools.cache
def _example_class() -> Any:
    """Return the message class of tf.train.Example, in a descriptor pool that cannot clash with TensorFlow's."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(EXAMPLE_PROTO, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
