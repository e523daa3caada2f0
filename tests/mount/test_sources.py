"""Ingest reads images from a mounted bucket, and workers of several processes exchange their files on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.datasets.image_folder import write_digit_images
from tests.support.engines import engine_options
from tests.support.ingests import ingested
from tests.support.mount import Mount
from tests.support.servers.object_store import Store

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("engine", ["", "processes"])
def test_images_on_a_mount_give_the_dataset_of_images_on_a_disk(
    engine: str, store: Store, mount: Mount, other_mount: Mount, tmp_path: Path
) -> None:
    write_digit_images(tmp_path / "images", 300, broken=True)
    on_mount = f"images{engine}"
    shutil.copytree(tmp_path / "images", mount.folder / on_mount)
    options = list(engine_options(engine) if engine else ())
    config = {"labels_from_folders": True, "image_size": 32, "beam_options": options}
    expected = ingested(tmp_path / "dataset", source=f"images:{tmp_path / 'images'}", **config)
    out, source = mount.folder / f"out{engine}" / "dataset", f"images:{other_mount.folder / on_mount}"
    assert ingested(out, beside=tmp_path, source=source, **config) == expected
    assert {name.split("/")[1] for name in store.names(f"out{engine}/")} <= {"", "dataset"}
