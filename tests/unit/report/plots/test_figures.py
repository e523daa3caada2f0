"""Images and bars of the page."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from components.common.images import grid, png_bytes
from components.report.formatting import number
from components.report.plots.bars import MAX_BARS, to_bars
from components.report.plots.figures import MAX_IMAGE_BYTES, figure
from tests.support.report_runs import digits


def test_a_small_png_is_not_changed() -> None:
    png = png_bytes(grid(digits()[:64], 8))
    shown = figure(png, "alt", "caption")
    assert shown.src.startswith("data:image/png;base64,")
    assert base64.b64decode(shown.src.partition(",")[2]) == png
    assert (shown.width, shown.height, shown.pixelated) == (73, 73, True)


def test_a_large_png_is_shrunk() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1000, 3)).astype(np.uint8)
    shown = figure(png_bytes(noise), "alt", "caption")
    jpeg = base64.b64decode(shown.src.removeprefix("data:image/jpeg;base64,"))
    assert len(jpeg) <= MAX_IMAGE_BYTES
    assert Image.open(io.BytesIO(jpeg)).size == (shown.width, shown.height)
    assert shown.height / shown.width == pytest.approx(1.5, rel=0.01)
    assert shown.height <= 1024


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"\x89PNG\r\n\x1a\n"])
def test_anything_but_a_png_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a PNG image"):
        figure(content, "alt", "caption")


def test_bars_are_relative_to_the_longest_and_limited() -> None:
    shown = to_bars([("a", 10), ("b", 5), ("c", 0)], number)
    assert [(bar.name, bar.length, bar.text) for bar in shown.bars] == [("a", 100, "10"), ("b", 50, "5"), ("c", 0, "0")]
    many = to_bars([(str(index), index) for index in range(1000)], number)
    assert (len(many.bars), many.left_out, many.bars[0].name) == (MAX_BARS, 1000 - MAX_BARS, "999")
    assert to_bars([("a", 0)], number).bars[0].length == 0
