"""Samples beside real images, and a blind test that asks the reader to tell them apart."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.images import cells, grid, png_bytes, read_png, viewable_scale
from components.report.artifact_reader import ArtifactReader
from components.report.plots.figures import Figure, figure

OF_EACH, COLUMNS = 16, 8
SAMPLE_COLUMNS = 8  # of evaluate's samples.png
FRAME = 3  # pixels of colour around an image of the answer
REAL, SAMPLE = (23, 140, 80), (200, 60, 40)

Images = npt.NDArray[np.uint8]


class ShownSamples(NamedTuple):
    """The section without a blind test, for images that are not of a run."""

    final: Figure
    real: Figure | None
    blind_test: None = None


class SamplesSection:
    """Samples of the model, or of the last round if it was not evaluated; None for what cannot be shown."""

    def __init__(
        self,
        dataset: ArtifactReader,
        model: ArtifactReader,
        evaluation: ArtifactReader,
        last_round: Figure | None,
        seed: str,
    ) -> None:
        self.final = evaluation.figure("samples.png", "Grid of samples", "Samples of the trained model.") or last_round
        self.real = None
        if "samples/real.png" in model.names("samples/", ".png"):
            caption = "Real images from the training split."
            self.real = model.figure("samples/real.png", "Grid of real training images", caption)
        self.blind_test = evaluation.attempt("The blind test", lambda: blind_test(dataset, evaluation, seed), None)


def blind_test(dataset: ArtifactReader, evaluation: ArtifactReader, seed: str) -> tuple[Figure, Figure] | None:
    """Return held-out images and scored samples, shuffled, and the answer in coloured frames; None if there is no dataset.

    The order depends on `seed` only, so the same report always has the same test.
    """
    if dataset.manifest is None:
        return None
    real = dataset.images("eval", OF_EACH)
    scale = viewable_scale(real.shape[1])
    samples = cells(read_png(evaluation.content("samples.png")), real.shape[1], SAMPLE_COLUMNS, scale)[: len(real)]
    images, is_real = shuffled(real, samples, seed)
    text = f"{len(real)} held-out images and {len(samples)} samples, shuffled"
    rows = (" ".join(np.where(row, "real", "sample")) for row in np.split(is_real, range(COLUMNS, len(is_real), COLUMNS)))
    question = figure(png_bytes(grid(images, COLUMNS, scale)), text, f"{text}. Which are real?")
    alt = "The same images; real ones have green frames, samples have red ones"
    caption = f"Green: real. Red: samples. Row by row: {'; '.join(rows)}."
    return question, figure(png_bytes(framed(images, is_real, scale)), alt, caption)


def shuffled(real: Images, samples: Images, seed: str) -> tuple[Images, npt.NDArray[np.bool_]]:
    """Return real images and samples in an order drawn from `seed`, and which of them are real."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    order = np.random.default_rng(number).permutation(len(real) + len(samples))
    return np.concatenate([real, samples])[order], order < len(real)


def framed(images: Images, is_real: npt.NDArray[np.bool_], scale: int) -> Images:
    """Return a grid of the images, [N, H, W, C], in coloured frames: uint8 [H', W', 3]."""
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    large = large if large.shape[3] == 3 else large.repeat(3, axis=3)
    colours = np.where(is_real[:, None], REAL, SAMPLE).astype(np.uint8)
    shape = (len(large), large.shape[1] + 2 * FRAME, large.shape[2] + 2 * FRAME, 3)
    canvas = np.broadcast_to(colours[:, None, None, :], shape).copy()
    canvas[:, FRAME:-FRAME, FRAME:-FRAME] = large
    return grid(canvas, COLUMNS)
