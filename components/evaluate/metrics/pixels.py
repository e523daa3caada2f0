"""What the metrics of pixels share: a distance between two sets of numbers, and the checks of images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.products import Floats

Images = npt.NDArray[np.uint8]


def check_images(images: npt.ArrayLike, smallest: int) -> Images:
    """Return images uint8 [N, H, W, C] with C = 1 or 3. Raises ValueError for anything else, or smaller than `smallest`."""
    array = np.asarray(images)
    if array.ndim != 4 or array.dtype != np.uint8 or not len(array) or array.shape[3] not in (1, 3):
        raise ValueError(f"images must be uint8 [N, H, W, 1 or 3] with N ≥ 1; got {array.dtype} {list(array.shape)}")
    if min(array.shape[1:3]) < smallest:
        raise ValueError(f"images must be at least {smallest}×{smallest}; got {array.shape[1]}×{array.shape[2]}")
    return array


def in_deviations(real: Floats, fake: Floats) -> float:
    """Return the 1-Wasserstein distance in standard deviations of the real numbers; those that are all alike count as 1."""
    from scipy.stats import wasserstein_distance  # here: it takes a third of a second to import

    return float(wasserstein_distance(real, fake)) / (float(real.std()) or 1.0)
