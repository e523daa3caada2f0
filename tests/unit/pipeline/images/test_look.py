"""What is found in folders, archives and lists of images."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.ingest.config import IngestConfig
from pipeline.images import look
from pipeline.images.look import Look, look_at


def write(folder: Path, count: int, size: tuple[int, int] = (20, 12), mode: str = "RGB", start: int = 0) -> None:
    """Write different noise images; in mode RGBA, half of the pixels are transparent."""
    folder.mkdir(parents=True, exist_ok=True)
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    for index in range(start, start + count):
        pixels = np.random.default_rng(index).integers(0, 256, [size[1], size[0], channels], np.uint8)
        if mode == "RGBA":
            pixels[:, :, 3] = np.arange(size[0]) % 2 * 255
        Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels).save(folder / f"{index}.png")


def found(location: Path, **keys: object) -> Look:
    return look_at(IngestConfig(source=f"images:{location}", **keys))


def test_sizes_colours_transparency_and_folders_are_found(tmp_path: Path) -> None:
    write(tmp_path / "a", 6)
    write(tmp_path / "b", 3, (40, 30), "L", start=10)
    write(tmp_path / "b", 2, (16, 16), "RGBA", start=20)
    here = found(tmp_path)
    assert (here.files, here.readable, here.different, here.images) == (11, 11, 11, 11)
    assert here.labels == {"a": 6, "b": 5}
    assert sorted(set(here.sizes)) == [(16, 16), (20, 12), (40, 30)]
    assert (here.coloured, here.transparent, here.blank, here.side) == (8, 2, 0, 12)


def test_an_opaque_alpha_channel_and_grey_stored_as_rgb_are_no_findings(tmp_path: Path) -> None:
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, [30, 30], np.uint8))
    grey.convert("RGBA").save(tmp_path / "a.png")
    grey.convert("RGB").save(tmp_path / "b.png")
    here = found(tmp_path)
    assert (here.transparent, here.coloured, here.different, here.readable) == (0, 0, 1, 2)


def test_the_most_common_colour_is_found_and_blank_images_are_counted(tmp_path: Path) -> None:
    for index in range(4):
        Image.new("RGB", (9, 9), (255, 255, 255)).save(tmp_path / f"{index}.png")
    write(tmp_path, 1, start=9)
    here = found(tmp_path)
    assert here.blank == 4
    assert here.common_colour == "#ffffff"
    assert 0.8 <= here.common_share < 0.85


def test_what_cannot_be_read_is_told_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "nothing.png").touch()
    assert sorted(found(tmp_path).problems) == ["notes.txt (not an image)", "nothing.png (empty file: 0 bytes)"]
    large = found(tmp_path, max_pixels=150).problems
    assert any("(too large: 20×12 pixels, 150 are allowed (ingest.max_pixels))" in problem for problem in large)


@pytest.mark.parametrize("name", ["all.zip", "all.tar", "all.tar.gz", "list.csv"])
def test_archives_and_lists_give_what_their_folder_gives(tmp_path: Path, name: str) -> None:
    write(tmp_path / "images" / "a", 30)
    write(tmp_path / "images" / "b", 30, start=30)
    files = sorted((tmp_path / "images").rglob("*.png"))
    location = tmp_path / name
    if name == "all.zip":
        with zipfile.ZipFile(location, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(tmp_path / "images"))
    elif name == "list.csv":
        lines = [f"{file.relative_to(tmp_path)},{file.parent.name}" for file in files]
        location.write_text("\n".join(["path,label", *lines]))
    else:
        with tarfile.open(location, "w:gz" if name.endswith("gz") else "w") as archive:
            for file in files:
                archive.add(file, str(file.relative_to(tmp_path / "images")))
    here, folder = found(location), found(tmp_path / "images")
    assert here.labels_are_folders is (name != "list.csv")
    ignored = {"seconds": 0.0, "labels_are_folders": True, "sizes": []}
    assert vars(here) | ignored == vars(folder) | ignored
    assert sorted(here.sizes) == sorted(folder.sizes)


def test_a_sample_is_spread_over_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "SAMPLE", 20)
    write(tmp_path / "a", 90, (16, 16))
    write(tmp_path / "b", 10, (24, 24), start=90)
    here = found(tmp_path)
    assert (here.files, here.sampled, here.images) == (100, 20, 100)
    assert here.sizes.count((24, 24)) == 2


def test_few_large_images_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "SAMPLE_PIXELS", 9 * 100 * 100)
    write(tmp_path, 40, (100, 100))
    assert found(tmp_path).sampled == 2 * look.GROUP


def test_a_jpeg_is_judged_by_its_full_size(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((1600, 1200)).save(stream, "JPEG")
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    assert found(tmp_path).sizes == [(1600, 1200)]
