"""Lists written in parts are read as one sorted list, however many parts there are."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from components.common.store import Folder
from components.ingest.beam import sorted_rows
from components.ingest.beam.sorted_rows import packed_rows, read_rows, unpacked_rows, write_rows


@pytest.mark.parametrize(("parts", "at_once"), [(1, 100), (7, 100), (30, 3), (9, 3), (10, 3)])
def test_parts_are_merged(parts: int, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_rows, "MAX_PARTS", at_once)
    shuffle = random.Random(parts)
    rows = [(f"{shuffle.randrange(500)} é\n", number, "x") for number in range(1000)]
    store, of_part = Folder(tmp_path), [rows[start::parts] for start in range(parts)]
    for number, chosen in enumerate(of_part):
        write_rows(store, f"list-{number:05d}.jsonl", sorted(chosen))
    names = [f"list-{number:05d}.jsonl" for number in range(parts)]
    assert list(read_rows(store, names)) == sorted(rows)
    assert list(read_rows(store, names)) == sorted(rows), "a repeated attempt reads the same"


def test_no_part_and_empty_parts(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    assert list(read_rows(store, [])) == []
    assert write_rows(store, "a", []) == 0
    assert list(read_rows(store, ["a", "a"])) == []


def test_rows_survive_packing() -> None:
    rows = [("line\nbreak", "\u2028", 2**64 - 1), ("", "\x85\x0b", -1)]
    assert list(unpacked_rows(packed_rows(rows))) == rows
