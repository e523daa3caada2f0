"""The progress of a training: what a checkpoint holds besides the variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from components.common.artifacts import now
from components.train.config import TrainConfig

PROGRESS = "progress.json"  # in the folder of a training, for who watches it
MOST_LINES = 500  # of metrics in it: more than a curve can show

Weights = Sequence[npt.NDArray[Any]]


class MetricsLine(BaseModel):
    """A line of metrics.jsonl. The metrics are means over the rounds of one host call."""

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
        """Return the speed of the host call."""
        return rounds_in_call(config, self.round) / self.seconds


class ScoreLine(BaseModel):
    """A line of scores.jsonl: KID (lower is better) and its standard error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    round: int
    images_seen: int
    kid: float
    kid_std: float


class ProgressFile(BaseModel):
    """The content of progress.json: how far a training is, its speed, and the metrics and scores so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    written_at: str  # ISO 8601, UTC
    round: int
    rounds: int
    rounds_per_second: float
    metrics: list[MetricsLine]
    scores: list[ScoreLine]

    @property
    def seconds_left(self) -> float:
        """The time to the last round, at this speed."""
        return (self.rounds - self.round) / self.rounds_per_second


@dataclass
class Progress:
    """Completed rounds, the lines of metrics.jsonl and scores.jsonl, and the weights of the best-scored moving average."""

    round: int = 0
    log: list[MetricsLine] = field(default_factory=list)
    scores: list[ScoreLine] = field(default_factory=list)
    best: Weights = ()

    def best_score(self) -> ScoreLine:
        """Return the score with the lowest KID; of equal ones, the earliest."""
        return min(self.scores, key=lambda score: score.kid)

    def got_worse(self) -> bool:
        """Return whether the last score is worse than the best by more than two standard errors of their difference."""
        if not self.scores:
            return False
        best, last = self.best_score(), self.scores[-1]
        return last.kid - best.kid > 2.0 * float(np.hypot(best.kid_std, last.kid_std))

    def out_of_patience(self, patience: int) -> bool:
        """Return whether the best score is older than the last `patience` scores; False if patience is 0."""
        return 0 < patience < len(self.scores) and self.best_score() not in self.scores[-patience:]

    def finished(self, config: TrainConfig) -> bool:
        """Return whether the last round is done, or the patience is exhausted."""
        return self.round >= config.rounds or self.out_of_patience(config.patience)

    def file(self, rounds: int, rounds_per_second: float) -> ProgressFile:
        """Return what progress.json says of a training of `rounds`; of many metrics every k-th line, with the last."""
        metrics = self.log[:: -(-(-len(self.log) // MOST_LINES) or 1)][::-1]
        return ProgressFile(
            written_at=now(),
            round=self.round,
            rounds=rounds,
            rounds_per_second=rounds_per_second,
            metrics=metrics,
            scores=self.scores,
        )


def rounds_in_call(config: TrainConfig, last_round: int) -> int:
    """Return the number of rounds in the host call that ended with `last_round`; the last call of a training may be shorter."""
    return (last_round - 1) % config.rounds_a_call + 1


def images_seen(config: TrainConfig, rounds: int) -> int:
    """Return the number of real images that the critic has seen after `rounds`, including repetitions."""
    return rounds * config.n_critic * config.global_batch_size
