"""Sharpness of samples relative to real images: the variance of the Laplacian of each image.

Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative study": the image is convolved with the
Laplacian of four neighbours. The variance of the result is small for soft edges, and large for noise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.checks import Floats, check_images
from components.evaluate.metrics.inputs import Inputs

SMALLEST = 3  # pixels, because the Laplacian needs a neighbour on each side
AT_ONCE = 512  # images converted to float64 at once
LUMA = np.array([0.299, 0.587, 0.114])  # Rec. ITU-R BT.601


def features_to_statistics(images: npt.ArrayLike) -> Floats:
    """Return the variance of the Laplacian of each image, uint8 [N, H, W, C] to float64 [N], in grey levels squared."""
    array = check_images(images, smallest=SMALLEST)
    return np.concatenate([_variance(array[start : start + AT_ONCE]) for start in range(0, len(array), AT_ONCE)])


def statistics_to_metric(real: Floats, fake: Floats) -> float:
    """Return the median variance of fake images [M] divided by that of real images [N]: 1 is best, below 1 is blurred."""
    middle = float(np.median(real))
    return float(np.median(fake)) / middle if middle else 1.0


def compute(real_images: npt.ArrayLike, fake_images: npt.ArrayLike) -> float:
    """Return the sharpness of fake images [M, H, W, C] relative to real ones [N, H, W, C], uint8. Raises ValueError."""
    return statistics_to_metric(features_to_statistics(real_images), features_to_statistics(fake_images))


def measure(inputs: Inputs) -> dict[str, float]:
    """Return `sharpness_ratio` if images are known and large enough for the Laplacian."""
    if inputs.samples is None or inputs.real_sharpness is None or min(inputs.samples.shape[1:3]) < SMALLEST:
        return {}
    return {"sharpness_ratio": statistics_to_metric(inputs.real_sharpness, features_to_statistics(inputs.samples))}


def _variance(images: npt.NDArray[np.uint8]) -> Floats:
    grey = images[..., 0].astype(np.float64) if images.shape[3] == 1 else images @ LUMA
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    variance: Floats = (around - 4.0 * grey[:, 1:-1, 1:-1]).var(axis=(1, 2))
    return variance
