"""Images as sharded TFRecords of tf.train.Example, written and read without TensorFlow.

An example has `image` (bytes: uint8, height × width × channels, row-major), `label` (int64, -1 where there is none), `id`
(UTF-8), `height` and `width` (int64, pixels of the image before it was resized). The two messages of
tensorflow/core/example/example.proto that are needed are declared here in a descriptor pool of their own, so that the steps
that only move bytes need not import TensorFlow.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError

SPLITS = ("train", "eval")
NO_LABEL = -1
HEADER_BYTES = 12  # of a record in a TFRecord file: its length and a checksum of that


class Record(NamedTuple):
    """One image: uint8 array [size, size, channels], label (NO_LABEL where there is none), id, the source's size in pixels.

    `height` and `width` are 0 where they are not known: datasets of older versions do not say.
    """

    image: npt.NDArray[np.uint8]
    label: int
    id: str
    height: int = 0
    width: int = 0


class ImageSet(NamedTuple):
    """A whole split: images uint8 [N, height, width, channels], labels int64 [N], ids."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    ids: tuple[str, ...]


def shard_name(split: str, index: int, count: int) -> str:
    """Return the file name of a shard, as TensorFlow's tools spell it."""
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def encode_example(record: Record) -> bytes:
    """Serialise a record as tf.train.Example; the same record always gives the same bytes."""
    return encode_pixels(record.image.tobytes(), record.label, record.id, record.height, record.width)


def encode_pixels(pixels: bytes, label: int, id: str, height: int, width: int) -> bytes:
    """Serialise an image whose pixels are bytes already, as `encode_example`."""
    example = _example_class()()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(pixels)
    feature["label"].int64_list.value.append(label)
    feature["id"].bytes_list.value.append(id.encode())
    feature["height"].int64_list.value.append(height)
    feature["width"].int64_list.value.append(width)
    return bytes(example.SerializeToString(deterministic=True))


def decode_example(serialized: bytes, image_size: int, channels: int) -> Record:
    """Parse a tf.train.Example back into a record. Raises ArtifactError when the image has another size."""
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
    """Return the features of any tf.train.Example, a mapping of name to Feature."""
    example = _example_class()()
    example.ParseFromString(serialized)
    return example.features.feature


def write_tfrecord(file: Path, serialized: Iterable[bytes]) -> int:
    """Write records in TFRecord framing (length, masked CRC-32C, data, masked CRC-32C); return their number."""
    count = 0
    with file.open("wb") as stream:
        for data in serialized:
            stream.write(framed(data))
            count += 1
    return count


def framed(data: bytes) -> bytes:
    """Return a record in TFRecord framing: length, its masked CRC-32C, data, its masked CRC-32C."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


def is_whole(frame: bytes) -> bool:
    """Return whether a framed record has the length and the checksums that it says."""
    header, data, crc = frame[:HEADER_BYTES], frame[HEADER_BYTES:-4], frame[-4:]
    right_length = len(header) == HEADER_BYTES and header == struct.pack("<Q", len(data)) + _masked_crc(header[:8])
    return right_length and crc == _masked_crc(data)


def read_tfrecord(file: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file. Raises ArtifactError on a truncated file or a wrong checksum."""
    return read_tfrecord_part(file, 0, sys.maxsize)


def read_tfrecord_part(file: Path, first_byte: int, count: int) -> Iterator[bytes]:
    """Yield at most `count` records, from the one whose header begins at `first_byte`. Raises as `read_tfrecord`."""
    with file.open("rb") as stream:
        stream.seek(first_byte)
        while count and (header := stream.read(HEADER_BYTES)):
            count -= 1
            if len(header) < HEADER_BYTES or _masked_crc(header[:8]) != header[8:]:
                raise ArtifactError(f"{file} is damaged at byte {stream.tell()}.", "Run ingest again.")
            (length,) = struct.unpack("<Q", header[:8])
            data = stream.read(length)
            if len(data) < length or stream.read(4) != _masked_crc(data):
                raise ArtifactError(f"{file} is damaged at byte {stream.tell()}.", "Run ingest again.")
            yield data


def read_split(dataset: Path, split: str) -> ImageSet:
    """Read one split of a dataset artifact into memory, in shard order (which is fixed)."""
    manifest = read_manifest(dataset, "dataset", verify=False)
    size, channels = int(manifest.details["image_size"]), int(manifest.details["channels"])
    images = np.empty((manifest.counts[split], size, size, channels), np.uint8)
    labels = np.empty(manifest.counts[split], np.int64)
    ids: list[str] = []
    for name in sorted(name for name in manifest.files if name.startswith(f"{split}-")):
        for serialized in read_tfrecord(dataset / name):
            record = decode_example(serialized, size, channels)
            images[len(ids)], labels[len(ids)] = record.image, record.label
            ids.append(record.id)
    return ImageSet(images, labels, tuple(ids))


class SplitIndex:
    """Where each record of a split lies, in the order of `read_split`, so that any can be read without the others.

    Only the headers (12 bytes a record) are read to make it; it takes 16 bytes a record. Raises ArtifactError when a shard is
    damaged, missing or too short, and when the manifest counts other records.
    """

    def __init__(self, dataset: Path, split: str) -> None:
        manifest = read_manifest(dataset, "dataset", verify=False)
        self.files = [dataset / name for name in sorted(name for name in manifest.files if name.startswith(f"{split}-"))]
        places = [record_places(file) for file in self.files]
        self._places = np.concatenate([np.empty((0, 2), np.int64), *places])
        self._first_of_next = np.cumsum([len(part) for part in places])
        if len(self._places) != manifest.counts[split]:
            raise ArtifactError(
                f"{dataset} has {len(self._places)} {split} records, its manifest counts {manifest.counts[split]}.",
                "Run ingest again.",
            )

    def __len__(self) -> int:
        return len(self._places)

    def read(self, numbers: npt.NDArray[np.integer]) -> list[bytes]:
        """Return the records of these numbers, at least one, ascending. Raises ArtifactError as `read_tfrecord` does."""
        shards = np.searchsorted(self._first_of_next, numbers, side="right")
        records = []
        for run in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(shards)) + 1):
            file = self.files[shards[run[0]]]
            with reading(file), file.open("rb") as stream:
                places = self._places[numbers[run]].tolist()
                records += [_record_at(stream.fileno(), file, start, length) for start, length in places]
        return records


def record_places(file: Path) -> npt.NDArray[np.int64]:
    """Return first byte and length of the data of each record of a TFRecord file, int64 [N, 2], from the headers alone.

    Raises ArtifactError on a truncated file or a header with a wrong checksum; a record's data is checked when it is read.
    """
    places: list[tuple[int, int]] = []
    with reading(file), file.open("rb") as stream:
        end, size = 0, os.fstat(stream.fileno()).st_size
        while end < size:
            header = os.pread(stream.fileno(), HEADER_BYTES, end)
            (length,) = struct.unpack("<Q", header[:8]) if len(header) == HEADER_BYTES else (0,)
            start, end = end + HEADER_BYTES, end + HEADER_BYTES + length + 4
            if len(header) < HEADER_BYTES or _masked_crc(header[:8]) != header[8:] or end > size:
                raise _damaged(file, start)
            places.append((start, length))
    return np.array(places, np.int64).reshape(-1, 2)


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Make an ArtifactError of what the disk says while `file` is read."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"Cannot read {file}: {error.strerror or error}.", "Mend the disk or run ingest again.") from error


def _record_at(descriptor: int, file: Path, start: int, length: int) -> bytes:
    # pread, not mmap: pages of a mapped file count as resident memory of the process, which should not grow with the data.
    framed = os.pread(descriptor, length + 4, start)
    data = framed[:length]
    if len(framed) < length + 4 or framed[length:] != _masked_crc(data):
        raise _damaged(file, start + length)
    return data


def _damaged(file: Path, byte: int) -> ArtifactError:
    return ArtifactError(f"{file} is damaged at byte {byte}.", "Run ingest again.")


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


_EXAMPLE_CLASS: list[Any] = []


def _example_class() -> Any:
    """Return the message class of tf.train.Example, built once from its declaration below."""
    if not _EXAMPLE_CLASS:
        pool = descriptor_pool.DescriptorPool()
        pool.Add(_example_proto())
        _EXAMPLE_CLASS.append(message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example")))
    return _EXAMPLE_CLASS[0]


def _example_proto() -> descriptor_pb2.FileDescriptorProto:
    # The field numbers are those of tensorflow/core/example/{feature,example}.proto, which never change.
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="wgan/example.proto", package="tensorflow", syntax="proto3")
    for name, kind in (("BytesList", kinds.TYPE_BYTES), ("FloatList", kinds.TYPE_FLOAT), ("Int64List", kinds.TYPE_INT64)):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=kinds.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), start=1):
        type_name = ".tensorflow." + "".join(part.capitalize() for part in name.split("_"))
        feature.field.add(
            name=name, number=number, type=kinds.TYPE_MESSAGE, type_name=type_name, label=kinds.LABEL_OPTIONAL,
            oneof_index=0,
        )  # fmt: skip
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=kinds.TYPE_MESSAGE, type_name=".tensorflow.Feature", label=kinds.LABEL_OPTIONAL
    )
    features.field.add(
        name="feature", number=1, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_REPEATED,
        type_name=".tensorflow.Features.FeatureEntry",
    )  # fmt: skip
    example = file.message_type.add(name="Example")
    example.field.add(
        name="features", number=1, type=kinds.TYPE_MESSAGE, type_name=".tensorflow.Features", label=kinds.LABEL_OPTIONAL
    )
    return file
