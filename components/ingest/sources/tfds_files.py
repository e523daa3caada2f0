"""Images of the files that TFDS has prepared, read without TFDS and without TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from components.common.errors import ArtifactError, first_line
from components.dataset.records import NO_LABEL, parse_example, read_tfrecord_part
from components.ingest.sources.chunks import CannotReadError, RawImage, Row, Unread, rows

DAMAGED = "damaged record"


def read_tfrecords(file: str, split: str, labelled: bool, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read records of a TFRecord file of TFDS; a row's number is the byte where the header of its record begins."""
    waiting = list(rows(*packed))
    while waiting:
        done = 0
        try:
            for serialized in read_tfrecord_part(Path(file), waiting[0].numbers[0], len(waiting)):
                yield _image(waiting[done], serialized, split, labelled)
                done += 1
            problem = "the file ends before it"
        except (ArtifactError, OSError) as error:  # one record is damaged: those after it are read from their own places
            problem = error.problem if isinstance(error, ArtifactError) else error.strerror or str(error)
        if done < len(waiting):
            yield waiting[done].unread(CannotReadError(DAMAGED, problem))
        waiting = waiting[done + 1 :]


def read_array_records(file: str, split: str, labelled: bool, *packed: bytes) -> Iterator[RawImage | Unread]:
    """Read records of an ArrayRecord file of TFDS; a row's number is that of its record in the file."""
    from array_record.python.array_record_module import ArrayRecordReader

    waiting = list(rows(*packed))
    try:
        reader = ArrayRecordReader(file)
        records = reader.read([row.numbers[0] for row in waiting])
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        yield from (row.unread(CannotReadError(DAMAGED, first_line(error))) for row in waiting)
        return
    yield from (_image(row, serialized, split, labelled) for row, serialized in zip(waiting, records, strict=True))


def _image(row: Row, serialized: bytes, split: str, labelled: bool) -> RawImage | Unread:
    try:
        features: Any = parse_example(serialized)
        (content,) = features["image"].bytes_list.value
        (label,) = features["label"].int64_list.value if labelled else (NO_LABEL,)
    except (DecodeError, ValueError, struct.error):
        return row.unread(CannotReadError(DAMAGED, "it holds no image, or no label"))
    return RawImage(row.id, int(label), split, content)
