"""A folder of odd and broken files, through the whole ingest step: each has the expected outcome, and none is lost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from components.common.artifacts import read_manifest
from components.dataset.records import read_split
from components.ingest.config import IngestConfig
from components.ingest.run import run
from tests.support.datasets.torture_folder import KEPT, MAX_BYTES, MAX_PIXELS, write_torture_folder

GOOD = 2000


@pytest.mark.timeout(300)
def test_every_kind_of_file_has_the_expected_outcome(tmp_path: Path) -> None:
    odd = write_torture_folder(tmp_path / "in", GOOD)
    assert len({file.name for file in odd}) == len(odd) >= 40
    config = IngestConfig(
        source=f"images:{tmp_path / 'in'}", image_size=32, channels=3, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS,
        max_quarantine_fraction=0.1,
    )  # fmt: skip
    summary = run(config, out=tmp_path / "out")

    quarantined = {row["id"]: row["reason"] for row in rows(tmp_path / "out" / "quarantine.jsonl")}
    dropped = {row["id"]: f"= {row['of']}" for row in rows(tmp_path / "out" / "duplicates.jsonl")}
    ids = [id for split in ("train", "eval") for id in read_split(tmp_path / "out", split).ids]
    assert len(ids) == len(set(ids))
    kept = dict.fromkeys(ids, KEPT)
    good = {f"good/{index:05d}.png": KEPT for index in range(GOOD)}
    assert quarantined | dropped | kept == {file.id: file.outcome for file in odd} | good

    kinds = Counter(
        "kept" if file.outcome == KEPT else "duplicate" if file.outcome[0] == "=" else "quarantined" for file in odd
    )
    assert summary.read == len(odd) + GOOD == summary.kept + summary.duplicate + summary.quarantined
    assert (summary.kept, summary.duplicate, summary.quarantined) == (
        kinds["kept"] + GOOD, kinds["duplicate"], kinds["quarantined"],
    )  # fmt: skip
    assert read_manifest(tmp_path / "out").counts["read"] == summary.read


def rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
