"""Reading images from the files of a prepared TFDS dataset, without TFDS and TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from components.common.errors import ArtifactError, first_line
from components.dataset.records import NO_LABEL, parse_example, read_tfrecord_part
from components.ingest.sources.chunks import CannotReadError, ListedImage, RawImage, Unread, listed_images

DAMAGED = "damaged record"


def read_tfrecords(file: str, split: str, labelled: bool, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read records of a TFRecord file of TFDS; the number of an image is the offset of its record's header."""
    waiting = list(listed_images(*packed))
    while waiting:
        done = 0
        try:
            for serialized in read_tfrecord_part(Path(file), waiting[0].numbers[0], len(waiting)):
                yield _image(waiting[done], serialized, split, labelled)
                done += 1
            problem = "the file ends before it"
        except (ArtifactError, OSError) as error:  # of one record: those after it are read at their own offsets
            problem = error.problem if isinstance(error, ArtifactError) else error.strerror or str(error)
        if done < len(waiting):
            yield waiting[done].unread(CannotReadError(DAMAGED, problem))
        waiting = waiting[done + 1 :]


def read_array_records(file: str, split: str, labelled: bool, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read records of an ArrayRecord file of TFDS; the number of an image is the index of its record."""
    from array_record.python.array_record_module import ArrayRecordReader

    waiting = list(listed_images(*packed))
    try:
        reader = ArrayRecordReader(file)
        records = reader.read([image.numbers[0] for image in waiting])
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        yield from (image.unread(CannotReadError(DAMAGED, first_line(error))) for image in waiting)
        return
    yield from (_image(image, serialized, split, labelled) for image, serialized in zip(waiting, records, strict=True))


def _image(image: ListedImage, serialized: bytes, split: str, labelled: bool) -> RawImage | Unread:
    try:
        features: Any = parse_example(serialized)
        (content,) = features["image"].bytes_list.value
        (label,) = features["label"].int64_list.value if labelled else (NO_LABEL,)
    except (DecodeError, ValueError, struct.error):
        return image.unread(CannotReadError(DAMAGED, "it holds no image, or no label"))
    return RawImage(image.id, int(label), split, content)
