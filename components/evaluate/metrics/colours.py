"""Whether samples have the colours of real images.

Seven numbers describe an image (two if it is grey): mean and standard deviation of each channel, and the mean saturation of
HSV (Smith 1978, "Color Gamut Transform Pairs"). The distributions of each number are compared by the 1-Wasserstein distance.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.checks import Floats, check_images
from components.evaluate.metrics.inputs import Inputs

AT_ONCE = 512  # images converted to float64 at once


def features_to_statistics(images: npt.ArrayLike) -> Floats:
    """Return the numbers of each image, uint8 [N, H, W, C] to float64 [N, 2 for C = 1, 7 for C = 3]."""
    array = check_images(images, smallest=1)
    return np.concatenate([_numbers(array[start : start + AT_ONCE]) for start in range(0, len(array), AT_ONCE)])


def statistics_to_metric(real: Floats, fake: Floats) -> float:
    """Return the largest distance between the numbers of real [N, S] and fake [M, S] images; 0 is best. Raises ValueError."""
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"real images have {real.shape[1]} colour numbers, fake ones {fake.shape[1]}: compare equal channels")
    return max(distance_in_deviations(of_real, of_fake) for of_real, of_fake in zip(real.T, fake.T, strict=True))


def distance_in_deviations(real: Floats, fake: Floats) -> float:
    """Return the 1-Wasserstein distance in standard deviations of the real numbers, or unscaled if those are all equal."""
    from scipy.stats import wasserstein_distance  # imported here because it takes a third of a second

    return float(wasserstein_distance(real, fake)) / (float(real.std()) or 1.0)


def compute(real_images: npt.ArrayLike, fake_images: npt.ArrayLike) -> float:
    """Return the colour distance between fake [M, H, W, C] and real [N, H, W, C] images, uint8. Raises ValueError."""
    return statistics_to_metric(features_to_statistics(real_images), features_to_statistics(fake_images))


def measure(inputs: Inputs) -> dict[str, float]:
    """Return `colour_distance` if the images are known."""
    if inputs.samples is None or inputs.real_colours is None:
        return {}
    return {"colour_distance": statistics_to_metric(inputs.real_colours, features_to_statistics(inputs.samples))}


def _numbers(images: npt.NDArray[np.uint8]) -> Floats:
    levels = images.astype(np.float64)
    numbers = [levels.mean(axis=(1, 2)), levels.std(axis=(1, 2))]
    if images.shape[3] == 3:
        brightest, darkest = levels.max(axis=3), levels.min(axis=3)
        numbers.append(((brightest - darkest) / np.maximum(brightest, 1.0)).mean(axis=(1, 2))[:, None])
    return np.concatenate(numbers, axis=1)
