"""How far a training is: what its checkpoints hold beside the variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from components.train.config import TrainConfig

Weights = Sequence[npt.NDArray[Any]]


class MetricsLine(BaseModel):
    """A line of metrics.jsonl, written at the end of a host call: the metrics are means over the rounds of the call."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    round: int
    images_seen: int
    critic_loss: float
    wasserstein_gap: float
    penalty: float
    critic_grad_norm: float
    generator_loss: float
    generator_grad_norm: float
    seconds: float

    def rounds_per_second(self, config: TrainConfig) -> float:
        """Return the speed of this call."""
        return rounds_in_call(config, self.round) / self.seconds


class ScoreLine(BaseModel):
    """A line of scores.jsonl: KID (lower is better) and its standard error over the samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    round: int
    images_seen: int
    kid: float
    kid_std: float


@dataclass
class Progress:
    """Rounds done, the lines of metrics.jsonl and scores.jsonl, and the moving average that scored best."""

    round: int = 0
    log: list[MetricsLine] = field(default_factory=list)
    scores: list[ScoreLine] = field(default_factory=list)
    best: Weights = ()

    def best_score(self) -> ScoreLine:
        """Return the score with the lowest KID, the earliest of equals."""
        return min(self.scores, key=lambda score: score.kid)

    def got_worse(self) -> bool:
        """Return whether the last score is worse than the best by more than two standard errors, that is by more than noise."""
        if not self.scores:
            return False
        best, last = self.best_score(), self.scores[-1]
        return last.kid - best.kid > 2.0 * float(np.hypot(best.kid_std, last.kid_std))

    def out_of_patience(self, patience: int) -> bool:
        """Return whether the last `patience` scores brought no new best; never when patience is 0."""
        return 0 < patience < len(self.scores) and self.best_score() not in self.scores[-patience:]

    def finished(self, config: TrainConfig) -> bool:
        """Return whether the last round is done, or the scores have not improved for too long."""
        return self.round >= config.rounds or self.out_of_patience(config.patience)


def rounds_in_call(config: TrainConfig, last_round: int) -> int:
    """Return how many rounds the call had that ended with `last_round`: the last call of a training may be short."""
    return (last_round - 1) % config.rounds_a_call + 1


def images_seen(config: TrainConfig, rounds: int) -> int:
    """Return how many real images the critic has seen after `rounds`, repeats counted."""
    return rounds * config.n_critic * config.global_batch_size
