"""The reader of a source, and the items of its chunks as a worker reads them."""

from __future__ import annotations

from typing import Any

from components.ingest.config import IngestConfig
from components.ingest.sources.chunks import RawImage, Reader, Unread
from components.ingest.sources.readers import open_source, read_chunk


def open_images(location: object, **fields: Any) -> Reader:
    """Return the reader of the source images:LOCATION."""
    return open_source(IngestConfig(source=f"images:{location}", **fields))


def items_of(reader: Reader) -> list[RawImage | Unread]:
    """Read all chunks and check that they have exactly one item an image."""
    items = [item for chunk in reader.chunks for item in read_chunk(chunk)]
    assert len(items) == reader.total
    return items


def contents(reader: Reader) -> dict[str, bytes]:
    """Return the content of each image by id; none may be Unread."""
    items = items_of(reader)
    assert not [item for item in items if isinstance(item, Unread)]
    return {item.id: item.content for item in items if isinstance(item, RawImage)}


def reasons(reader: Reader) -> dict[str, tuple[str, str]]:
    """Return reason and detail of the images that cannot be read, by id."""
    return {item.id: (item.reason, item.detail) for item in items_of(reader) if isinstance(item, Unread)}


def labels(reader: Reader) -> dict[str, str]:
    """Return the label name of each image, "" for none."""
    found = [item for item in items_of(reader) if isinstance(item, RawImage)]
    return {item.id: reader.label_names[item.label] if item.label >= 0 else "" for item in found}
