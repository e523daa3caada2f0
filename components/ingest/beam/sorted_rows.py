"""Sorted lists that are written in parts by many workers and read as one, as a stream: a part is JSON Lines, a row a line."""

from __future__ import annotations

import contextlib
import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from components.common.store import Store

MAX_PARTS = 100  # that are open at once

Row = tuple[Any, ...]  # of text and numbers


def packed_rows(rows: Iterable[Row]) -> bytes:
    """Return rows as JSON Lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def unpacked_rows(content: bytes) -> Iterator[Row]:
    """Yield the rows of JSON Lines."""
    return map(_row, content.splitlines())


def write_rows(store: Store, name: str, rows: Iterable[Row]) -> int:
    """Write a part, whose rows must be sorted; return its size in bytes. Raises ArtifactError."""
    return store.write(name, (json.dumps(row).encode() + b"\n" for row in rows))


def read_rows(store: Store, names: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of all parts in order. Of more than MAX_PARTS parts, joined ones are written first."""
    while len(names) > MAX_PARTS:
        groups = [names[start : start + MAX_PARTS] for start in range(0, len(names), MAX_PARTS)]
        names = [f"{group[0]}.{len(group)}" for group in groups]
        for name, group in zip(names, groups, strict=True):
            write_rows(store, name, read_rows(store, group))
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(store.open(name)) for name in names]
        yield from heapq.merge(*(map(_row, stream) for stream in streams))


def _row(line: bytes) -> Row:
    return tuple(json.loads(line))
