"""What a metric may be computed from: one set of samples beside one set of real images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.evaluate.metrics.one_pass import Pairs
from components.evaluate.metrics.products import Floats
from components.evaluate.metrics.tiles import Features

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Inputs:
    """Everything known of N real images and M samples; what is None is not known, and metrics that need it are left out.

    real [N, D], fake [M, D]: features; pairs: what one pass over them finds; kid_error: standard error of KID;
    held_out_distances [H], fake_distances [M]: to the nearest training image; samples: uint8 [M, H, W, C];
    real_sharpness [N], real_colours [N, S]: statistics of the pixels of real images; real_class_shares [K] and probabilities
    [M, K]: of the classes of a classifier.
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
