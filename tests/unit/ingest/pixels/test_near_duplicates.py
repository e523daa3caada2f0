"""Near duplicates, through the whole step; equal pixels are tested in tests/unit/ingest/test_run.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from components.ingest.config import IngestConfig
from components.ingest.run import run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two photos, each also smaller and in grey, and one of them twice."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("china", "flower"):
        photo = Image.fromarray(load_sample_image(f"{name}.jpg"))
        photo.save(folder / f"{name}.png")
        photo.resize((320, 213)).save(folder / f"{name}_small.jpg", quality=60)
        photo.convert("L").save(folder / f"{name}_grey.png")
    Image.fromarray(load_sample_image("china.jpg")).save(folder / "again.bmp")
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_near_duplicates_are_dropped_across_shards(photos: Path, tmp_path: Path, shards: int) -> None:
    config = IngestConfig(source=f"images:{photos}", image_size=64, channels=3, near_duplicates=6, shards=shards)
    summary = run(config, out=tmp_path / "out")
    assert (summary.read, summary.kept, summary.duplicate, summary.quarantined) == (7, 2, 5, 0)
    listed = [json.loads(line) for line in (tmp_path / "out" / "duplicates.jsonl").read_text().splitlines()]
    assert [(row["id"], row["of"], row["kind"]) for row in listed] == [
        ("china.png", "again.bmp", "same pixels"),
        ("china_grey.png", "again.bmp", "looks alike"),
        ("china_small.jpg", "again.bmp", "looks alike"),
        ("flower_grey.png", "flower.png", "looks alike"),
        ("flower_small.jpg", "flower.png", "looks alike"),
    ]


def test_near_duplicates_are_kept_by_default(photos: Path, tmp_path: Path) -> None:
    summary = run(IngestConfig(source=f"images:{photos}", image_size=64, channels=3), out=tmp_path / "out")
    assert (summary.kept, summary.duplicate) == (6, 1)
