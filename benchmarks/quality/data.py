"""Fashion-MNIST as a dataset artifact, ingested once."""

from __future__ import annotations

from pathlib import Path

from components.common.artifacts import MANIFEST
from components.common.command import read_section
from components.ingest.config import IngestConfig
from components.ingest.run import run
from tests.support.datasets.fashion_mnist import make_manual_dir


def dataset(folder: Path, config: Path) -> Path:
    """Return the dataset artifact in `folder`, ingested with the [ingest] section of `config` from Debian's files, offline."""
    out = folder / "dataset"
    if not (out / MANIFEST).is_file():
        manual = make_manual_dir(folder / "originals")
        offline = {"tfds_manual_dir": str(manual), "tfds_data_dir": str(folder / "tfds")}
        run(read_section(IngestConfig, "ingest", config).model_copy(update=offline), out=out)
    return out
