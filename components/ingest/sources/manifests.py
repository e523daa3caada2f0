"""Manifests: CSV or JSONL files with the columns path, label and split; paths are relative to the folder of the file."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from components.common.addresses import find_filesystem, is_address, remote_errors, suffix_in
from components.common.errors import ConfigError, first_line
from components.ingest.sources.chunks import IMAGES_PER_CHUNK, SPLIT_CODES, CannotReadError, ChunkPacker, Reader, digest_number
from components.ingest.sources.files import CONCURRENT_REQUESTS, refuse_irregular
from components.ingest.sources.listing import local_status, remote_status

COLUMNS = ("path", "label", "split")
FORM = 'A line is path,label or path,label,split (CSV with a header), or {"path": …, "label": …, "split": …} (JSONL).'


class Line(NamedTuple):
    """One image of a manifest: path as written, label and split ("": none), size and stamp of its file."""

    path: str
    label: str
    split: str
    size: int = 0
    stamp: int = 0


def open_manifest(location: str, max_bytes: int) -> Reader:
    """Return the reader of the images in a manifest. Raises ConfigError with the number of an invalid line."""
    kind, root = ("remote", location.rpartition("/")[0]) if is_address(location) else ("files", os.fsencode(_folder(location)))
    packer = ChunkPacker(kind, root, max_bytes)
    for line in sized_lines(location, read_manifest_file(location)):
        packer.add(os.fsencode(line.path), min(line.size, max_bytes), (line.size, line.stamp), line.label, line.split)
    return packer.reader()


def read_manifest_file(location: str) -> bytes:
    """Return the bytes of a manifest. Raises ConfigError when it cannot be read."""
    try:
        if is_address(location):
            filesystem, path = find_filesystem(location)
            return bytes(filesystem.cat_file(path))
        refuse_irregular(os.stat(location))  # reading a pipe would block
        with open(location, "rb") as file:
            return file.read()
    except CannotReadError as error:
        raise ConfigError(f"The manifest {location} is {error.detail}.", "Name a regular file.") from None
    except remote_errors() as error:
        raise ConfigError(
            f"The manifest {location} cannot be read: {first_line(error)}.", "Check that it exists and is readable."
        ) from None


def sized_lines(location: str, content: bytes) -> Iterator[Line]:
    """Yield the lines of a manifest, with sizes and stamps of their files (UNKNOWN for missing ones)."""
    lines = _lines(location, content)
    if not is_address(location):
        folder = os.fsencode(_folder(location))
        for line in lines:
            size, stamp = local_status(os.path.join(folder, os.fsencode(line.path)))  # bytes
            yield line._replace(size=size, stamp=stamp)
        return
    filesystem, path = find_filesystem(location)
    root = path.rpartition("/")[0]
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
        while batch := list(itertools.islice(lines, IMAGES_PER_CHUNK)):
            statuses = pool.map(lambda line: remote_status(filesystem, f"{root}/{line.path}"), batch)
            yield from (line._replace(size=size, stamp=stamp) for line, (size, stamp) in zip(batch, statuses, strict=True))


def _folder(location: str) -> str:
    return os.path.dirname(os.path.abspath(location))  # does not resolve symbolic links


def _lines(location: str, content: bytes) -> Iterator[Line]:
    seen: set[int] = set()  # digests take a third of the memory of the paths
    try:
        for number, record in _records(location, content):
            line = _line(location, number, record)
            if (digest := digest_number(os.fsencode(line.path))) in seen:
                before = next(number for number, record in _records(location, content) if str(record["path"]) == line.path)
                raise _wrong(location, number, f"{line.path} is already on line {before}")
            seen.add(digest)
            yield line
    except UnicodeDecodeError:
        raise _wrong(location, _undecodable_line(content), "not UTF-8") from None


def _records(location: str, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
    return _csv_records(location, text) if suffix_in(location, (".csv",)) else _json_records(location, text)


def _undecodable_line(content: bytes) -> int:
    lines = enumerate(content.split(b"\n"), start=1)
    return next(number for number, line in lines if line != line.decode(errors="ignore").encode())


def _csv_records(location: str, text: io.TextIOWrapper) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(text, strict=True)
    try:
        header = reader.fieldnames or ()
        if "path" not in header:
            raise _wrong(location, 1, f"the header has no column path; it has {', '.join(header) or 'none'}")
        for record in reader:
            fields = len(header) + len(record.get(None, ())) - list(record.values()).count(None)
            if fields != len(header):
                raise _wrong(location, reader.line_num, f"{fields} fields, the header has {len(header)}")
            yield reader.line_num, record
    except csv.Error as error:
        raise _wrong(location, reader.reader.line_num, str(error)) from None


def _json_records(location: str, text: io.TextIOWrapper) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text, start=1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _wrong(location, number, f"not JSON: {first_line(error)}") from None
            if not isinstance(record, dict):
                raise _wrong(location, number, "not a JSON object")
            yield number, record


def _line(location: str, number: int, record: dict[str, Any]) -> Line:
    values = []
    for column in COLUMNS:
        value = record.get(column)
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
            raise _wrong(location, number, f"{column} is {json.dumps(value)}, not text")
        values.append("" if value is None else str(value))
    path, label, split = values
    if not path or "\0" in path:
        raise _wrong(location, number, "the path is missing")
    if is_address(path) or path.startswith("file://"):
        raise _wrong(location, number, f"{path} is a URL; paths must be relative to the folder of the manifest")
    if split not in SPLIT_CODES:
        raise _wrong(location, number, f'the split is "{split}"; use train, eval or leave it empty')
    return Line(path, label, split)


def _wrong(location: str, number: int, problem: str) -> ConfigError:
    return ConfigError(f"{location}, line {number}: {problem}.", FORM)
