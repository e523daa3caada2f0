"""The inputs of all metrics: samples and real images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.checks import Floats
from components.evaluate.metrics.one_pass import Pairs
from components.evaluate.metrics.tiles import Features

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Inputs:
    """What is known about N real images and M samples. If a field is None, the metrics that need it are left out.

    real [N, D] and fake [M, D] are features, pairs the result of one pass over them, kid_error the standard error of KID.
    held_out_distances [H] and fake_distances [M] are distances to the nearest training image. samples are images uint8
    [M, H, W, C], real_sharpness [N] and real_colours [N, S] statistics of the real images. real_class_shares [K] are the shares
    of the labels, probabilities [M, K] the class probabilities of samples from the classifier.
    """

    real: Features
    fake: Features
    pairs: Pairs
    kid_error: float | None = None
    held_out_distances: Floats | None = None
    fake_distances: Floats | None = None
    samples: Images | None = None
    real_sharpness: Floats | None = None
    real_colours: Floats | None = None
    real_class_shares: Floats | None = None
    probabilities: Floats | None = None
