"""A test of the reader's eye: samples and held-out images, shuffled, and the answer beside it."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.common.images import cells, grid, png_bytes, viewable_scale
from components.report.artifact_reader import Opened
from components.report.plots.figures import Figure, figure

OF_EACH, COLUMNS = 16, 8
SAMPLE_COLUMNS = 8  # of evaluate's samples.png
FRAME = 3  # pixels of colour around an image of the answer
REAL, SAMPLE = (23, 140, 80), (200, 60, 40)

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class BlindTest:
    """The shuffled images, and the same with a green frame around the real ones and a red one around the samples."""

    question: Figure
    answer: Figure


def blind_test(dataset: Opened, evaluation: Opened, seed: str) -> BlindTest | None:
    """Return the test from held-out images and the samples that were scored; None where either is missing.

    The order depends on `seed` alone, so that the same report has the same test.
    """
    if dataset.manifest is None or evaluation.manifest is None:
        return None
    real = dataset.images("eval", OF_EACH)
    scale = viewable_scale(real.shape[1])
    picture = np.asarray(Image.open(io.BytesIO(evaluation.content("samples.png"))))
    picture = picture if picture.ndim == 3 else picture[..., None]
    samples = cells(picture, real.shape[1], SAMPLE_COLUMNS, scale)[: len(real)]
    images, is_real = shuffled(real, samples, seed)
    words = f"{len(real)} held-out images and {len(samples)} samples, shuffled"
    return BlindTest(
        figure(png_bytes(grid(images, COLUMNS, scale)), words, f"{words}: which are real?"),
        figure(
            png_bytes(framed(images, is_real, scale)),
            "The same images, the real ones in green frames, the samples in red ones",
            f"Green: real. Red: samples. In rows: {'; '.join(_row_words(row) for row in _rows(is_real))}.",
        ),
    )


def shuffled(real: Images, samples: Images, seed: str) -> tuple[Images, npt.NDArray[np.bool_]]:
    """Return real images and samples in an order drawn from `seed`, and which of them are real."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    order = np.random.default_rng(number).permutation(len(real) + len(samples))
    return np.concatenate([real, samples])[order], order < len(real)


def framed(images: Images, is_real: npt.NDArray[np.bool_], scale: int) -> Images:
    """Return a grid of the images, [N, H, W, C], each in a frame of its colour: uint8 [H', W', 3]."""
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    large = large if large.shape[3] == 3 else large.repeat(3, axis=3)
    colours = np.where(is_real[:, None], REAL, SAMPLE).astype(np.uint8)
    shape = (len(large), large.shape[1] + 2 * FRAME, large.shape[2] + 2 * FRAME, 3)
    canvas = np.broadcast_to(colours[:, None, None, :], shape).copy()
    canvas[:, FRAME:-FRAME, FRAME:-FRAME] = large
    return grid(canvas, COLUMNS)


def _rows(is_real: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
    return [is_real[start : start + COLUMNS] for start in range(0, len(is_real), COLUMNS)]


def _row_words(row: npt.NDArray[np.bool_]) -> str:
    return " ".join("real" if real else "sample" for real in row)
