"""A cheap score during training: KID between samples of the moving average and held-out images, on fixed random features.

It only compares rounds of the same training; evaluate computes the scores of a model.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.common.progress import say
from components.evaluate.features.extractor_training import random_extractor
from components.evaluate.metrics import kid
from components.train.config import TrainConfig
from components.train.progress import ScoreLine, images_seen, rounds_in_call

SAMPLES = 1000  # number of samples, and most held-out images
FEWEST_HELD_OUT = 100  # with fewer held-out images, KID would be mostly noise
ERROR_SUBSETS = 20

Images = npt.NDArray[np.uint8]


class Monitor:
    """Scores samples uint8 [N, H, W, C] against a fixed set of held-out images."""

    def __init__(self, held_out: Images) -> None:
        self.extractor = random_extractor(held_out)
        self.real_features = self.extractor.features(held_out)

    def score(self, samples: Images, round_done: int, images_seen: int) -> ScoreLine:
        """Return the score of the samples."""
        features = self.extractor.features(samples)
        size = max(2, len(samples) // 4)
        value, error = kid.compute_with_error(self.real_features, features, subsets=ERROR_SUBSETS, subset_size=size, seed=0)
        return ScoreLine(round=round_done, images_seen=images_seen, kid=value, kid_std=error)


def make_monitor(config: TrainConfig, held_out: Images) -> Monitor | None:
    """Return the monitor, or None if scores are off or there are too few held-out images (which is logged)."""
    if not config.score_every_images:
        return None
    if len(held_out) < FEWEST_HELD_OUT:
        say(f"No scores during training: they need {FEWEST_HELD_OUT} held-out images, the dataset has {len(held_out)}")
        return None
    return Monitor(held_out)


def is_due(config: TrainConfig, rounds: int) -> bool:
    """Return whether the call that ended after `rounds` passed a multiple of score_every_images, or was the last one."""
    every = config.score_every_images
    before = images_seen(config, rounds - rounds_in_call(config, rounds))
    return every > 0 and (images_seen(config, rounds) // every > before // every or rounds == config.rounds)
