"""How sharp samples are beside real images: the variance of the Laplacian of each image.

Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative study": the image is convolved with the
Laplacian of four neighbours; the variance of the result is small where edges are soft, and large where there is noise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.pixels import check_images, in_deviations
from components.evaluate.metrics.products import Floats

AT_ONCE = 512  # images; float64 is needed of no more
LUMA = np.array([0.299, 0.587, 0.114])  # Rec. ITU-R BT.601


class Sharpness(NamedTuple):
    """`ratio` of the medians, fake by real: 1 is best, below is blurred; `distance` in deviations of real images: 0 is best."""

    ratio: float
    distance: float


def features_to_statistics(images: npt.ArrayLike) -> Floats:
    """Return the variance of the Laplacian of each image, uint8 [N, H, W, C] to float64 [N], in grey levels squared."""
    array = check_images(images, smallest=3)
    found = [_variance(array[start : start + AT_ONCE]) for start in range(0, len(array), AT_ONCE)]
    return np.concatenate(found)


def statistics_to_metric(real: Floats, fake: Floats) -> Sharpness:
    """Return ratio and distance from the variances of real [N] and fake [M] images."""
    middle = float(np.median(real))
    return Sharpness(float(np.median(fake)) / middle if middle else 1.0, in_deviations(real, fake))


def compute(real_images: npt.ArrayLike, fake_images: npt.ArrayLike) -> Sharpness:
    """Return the sharpness of fake images [M, H, W, C] beside real ones [N, H, W, C], uint8. Raises ValueError."""
    return statistics_to_metric(features_to_statistics(real_images), features_to_statistics(fake_images))


def _variance(images: npt.NDArray[np.uint8]) -> Floats:
    grey = images[..., 0].astype(np.float64) if images.shape[3] == 1 else images @ LUMA
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    variance: Floats = (around - 4.0 * grey[:, 1:-1, 1:-1]).var(axis=(1, 2))
    return variance
