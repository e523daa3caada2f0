"""Ingest reads images from a mounted bucket, and workers of several processes exchange their files on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.common.artifacts import read_manifest
from tests.support.datasets.image_folder import write_digit_images
from tests.support.engines import engine_options
from tests.support.local_runs import ROOT
from tests.support.mount import Mount
from tests.support.servers.object_store import Store

pytestmark = pytest.mark.timeout(600)


def ingest(images: Path, out: Path, config: Path, *options: str) -> str:
    """Run ingest; return the digest of the dataset."""
    values = {"source": f"images:{images}", "labels_from_folders": True, "image_size": 32, "beam_options": list(options)}
    config.write_text("[ingest]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    command = [sys.executable, "-m", "components.ingest", "--config", str(config), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return read_manifest(out, "dataset").digest


@pytest.mark.parametrize("engine", ["", "processes"])
def test_images_on_a_mount_give_the_dataset_of_images_on_a_disk(
    engine: str, store: Store, mount: Mount, other_mount: Mount, tmp_path: Path
) -> None:
    write_digit_images(tmp_path / "images", 300, broken=True)
    on_mount = f"images{engine}"
    shutil.copytree(tmp_path / "images", mount.folder / on_mount)
    config, options = tmp_path / "config.toml", engine_options(engine) if engine else ()
    expected = ingest(tmp_path / "images", tmp_path / "dataset", config, *options)
    assert ingest(other_mount.folder / on_mount, mount.folder / f"out{engine}" / "dataset", config, *options) == expected
    assert {name.split("/")[1] for name in store.names(f"out{engine}/")} <= {"", "dataset"}
