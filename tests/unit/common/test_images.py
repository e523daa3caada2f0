"""Image grids and PNG files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.common.images import grid, png_bytes, viewable_scale, write_png
from tests.support.datasets.tiny_artifacts import part


def test_every_image_is_in_its_cell() -> None:
    images = part("rest").images[:5]
    canvas = grid(images, columns=3, scale=2)
    assert canvas.shape == (2 * 17 + 1, 3 * 17 + 1, 1)
    for index, image in enumerate(images):
        top, left = index // 3 * 17 + 1, index % 3 * 17 + 1
        cell = canvas[top : top + 16, left : left + 16]
        assert np.array_equal(cell[::2, ::2], image)
        assert np.array_equal(cell[1::2, 1::2], image)
    assert (canvas[18:, 35:] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_same_pixels(channels: int, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (9, 7, channels)).astype(np.uint8)
    write_png(tmp_path / "a.png", array)
    assert (tmp_path / "a.png").read_bytes() == png_bytes(array)
    decoded = np.asarray(Image.open(io.BytesIO(png_bytes(array))))
    assert np.array_equal(decoded.reshape(array.shape), array)


@pytest.mark.parametrize(("image_size", "scale"), [(8, 6), (28, 2), (48, 1), (128, 1)])
def test_small_images_are_shown_larger(image_size: int, scale: int) -> None:
    assert viewable_scale(image_size) == scale
