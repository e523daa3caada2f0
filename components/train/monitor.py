"""A cheap score while training: KID of the moving average's samples against held-out images, on fixed random features.

It tells which of two moments of one training is better, and nothing else: the score of a model is made by evaluate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from components.evaluate.features.extractor_training import random_extractor
from components.evaluate.metrics import kid

SAMPLES = 1000  # of the generator, and held-out images at most
NEEDED = 100  # held-out images: with fewer, KID is all noise
ERROR_SUBSETS = 20


class Scored(BaseModel):
    """A line of scores.jsonl: KID, lower is better, and its standard error over the samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    round: int
    images_seen: int
    kid: float
    kid_std: float


class Judge:
    """Scores samples uint8 [N, H, W, C] against held-out images, always the same ones with the same features."""

    def __init__(self, held_out: npt.NDArray[np.uint8]) -> None:
        self.extractor = random_extractor(held_out[:SAMPLES])
        self.real_features = self.extractor.features(held_out[:SAMPLES])

    def score(self, samples: npt.NDArray[np.uint8], round_done: int, images_seen: int) -> Scored:
        """Return the score of samples."""
        features = self.extractor.features(samples)
        size = max(2, len(samples) // 4)
        value, error = kid.compute_with_error(self.real_features, features, subsets=ERROR_SUBSETS, subset_size=size, seed=0)
        return Scored(round=round_done, images_seen=images_seen, kid=value, kid_std=error)


def best_of(scores: list[Scored]) -> Scored:
    """Return the score with the lowest KID, the earliest of equals."""
    return min(scores, key=lambda scored: scored.kid)


def got_worse(scores: list[Scored]) -> bool:
    """Return whether the last score is worse than the best by more than two standard errors: by more than noise."""
    best, last = best_of(scores), scores[-1]
    return last.kid - best.kid > 2.0 * float(np.hypot(best.kid_std, last.kid_std))


def patience_is_over(scores: list[Scored], patience: int) -> bool:
    """Return whether the last `patience` scores brought no new best; never when patience is 0."""
    return 0 < patience < len(scores) and best_of(scores) not in scores[-patience:]


def is_due(images_before: int, images_now: int, every: int) -> bool:
    """Return whether a multiple of `every` images was passed; never when `every` is 0."""
    return every > 0 and images_now // every > images_before // every
