"""The pipeline on other sources than digits: Fashion-MNIST through TFDS, and folders of image files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.datasets.image_folder import write_digit_images
from tests.support.local_runs import run

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]


def test_folder_of_labelled_and_broken_images(tmp_path: Path) -> None:
    counts = write_digit_images(tmp_path / "pictures", 600, broken=True)
    done = run(
        tmp_path / "runs",
        f"ingest.source=images:{tmp_path / 'pictures'}",
        "ingest.labels_from_folders=true",
        "ingest.image_size=16",
        "ingest.channels=3",
    )
    assert done.code == 0, done.stdout + done.stderr
    ingest = done.summary["ingest"]
    assert ingest["read"] == counts.read
    assert ingest["quarantined"] == len(counts.broken)
    assert ingest["kept"] + ingest["duplicate"] == 600
    assert done.summary["evaluate"]["provenance"]["extractor"]["kind"] == "trained"
    page = (tmp_path / "runs" / "latest" / "report.html").read_text()
    assert all(name in page for name in counts.broken)


def test_fashion_mnist_through_tfds(fashion_mnist: Path, tmp_path: Path) -> None:
    done = run(
        tmp_path / "runs", "ingest.source=tfds:fashion_mnist", f"ingest.tfds_manual_dir={fashion_mnist}",
        f"ingest.tfds_data_dir={tmp_path / 'tfds'}", "ingest.tfds_eval_split=test", "ingest.image_size=28",
    )  # fmt: skip
    assert done.code == 0, done.stdout + done.stderr
    assert done.summary["ingest"]["read"] == 70_000
    assert done.summary["ingest"]["labels"] == 10
    assert done.summary["evaluate"]["provenance"]["extractor"]["accuracy"] > 0.8
