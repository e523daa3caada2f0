"""The blind test: every image once, and the right answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.images import cells, grid
from components.report.sections.samples import FRAME, REAL, SAMPLE, framed, shuffled


@given(st.integers(1, 30), st.sampled_from([1, 3]), st.integers(1, 4), st.integers(1, 9))
def test_cells_are_the_images_of_the_grid(count: int, channels: int, scale: int, columns: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 5, 5, channels)).astype(np.uint8)
    images_again = cells(grid(images, columns, scale), 5, columns, scale)
    np.testing.assert_array_equal(images_again[:count], images)
    assert (images_again[count:] == 255).all()


def test_an_array_that_is_not_a_grid_has_no_cells() -> None:
    with pytest.raises(ValueError, match=r"\[9, 10, 1\] is no.* grid of 1 columns of 8×8 pixels × 1"):
        cells(np.zeros((9, 10, 1), np.uint8), 8, 1, 1)


def test_blind_test_shows_every_image_once_and_its_answer_is_right() -> None:
    real, samples = np.zeros((16, 4, 4, 1), np.uint8), np.full((16, 4, 4, 1), 200, np.uint8)
    images, is_real = shuffled(real, samples, "run-1")
    assert is_real.sum() == 16
    assert (images[is_real] == 0).all()
    assert (images[~is_real] == 200).all()
    again, _ = shuffled(real, samples, "run-1")
    other, _ = shuffled(real, samples, "run-2")
    np.testing.assert_array_equal(images, again)
    assert (images != other).any()
    assert 0 < is_real[:16].sum() < 16  # real images and samples are mixed
    answer = framed(images, is_real, 2)
    corner = answer[1, 1 :: 8 + 2 * FRAME + 1][:8]
    np.testing.assert_array_equal(corner, np.where(is_real[:8, None], REAL, SAMPLE))
