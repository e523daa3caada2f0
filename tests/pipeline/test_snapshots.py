"""Snapshots in whole runs: drift stops a run, and accepting the snapshot lets it continue (test_month.py has the rest)."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.support.datasets.snapshots import brighter, digits
from tests.support.local_runs import Outcome, run


def write_images(folder: Path, *, drifted: bool) -> None:
    images, labels = digits()
    changed = brighter(images) if drifted else images
    for number, (image, label) in enumerate(zip(changed, labels, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / str(label) / f"{number:05d}.png")


@pytest.mark.heavy
def test_drift_stops_a_run_until_it_is_accepted(tmp_path: Path) -> None:
    def again(*overrides: str) -> Outcome:
        return run(
            tmp_path / "runs", f"ingest.source=images:{tmp_path / 'data'}", "ingest.labels_from_folders=true", *overrides
        )

    write_images(tmp_path / "data", drifted=False)
    first = again()
    assert first.code == 0, first.stderr
    assert first.summary["validate"]["accepted_against"] == ""
    write_images(tmp_path / "data", drifted=True)
    stopped = again()
    assert (stopped.code, stopped.statuses()["validate"], stopped.statuses()["train"]) == (3, "failed", "skipped")
    words = stopped.summary["error"]["cure"].split()
    assert words[-2] == "--set"
    assert "It was refused." in (tmp_path / "runs" / "latest" / "report.html").read_text()
    accepted = again(words[-1])
    assert accepted.code == 0, accepted.stderr
    summary = accepted.summary["validate"]
    assert (summary["snapshot"], summary["accepted_against"]) == (
        words[-1].partition("=")[2],
        first.summary["validate"]["snapshot"],
    )
    assert {anomaly["feature"] for anomaly in summary["anomalies"]} >= {"brightness", "contrast", "channel_0"}
