"""Draw docs/lipschitz_critics.png and docs/lipschitz_digits.png, and print the tables of docs/lipschitz.md.

Compares critics under the gradient penalty and under weight clipping: first on points of the plane without a generator, then
in trainings of the quickstart's digits. The steps are those of components.train; within a picture only `train.lipschitz` and
`train.clip_value` differ.

python docs/lipschitz.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # import components from this checkout

import numpy as np

from components.common.command import read_section
from components.dataset.records import ImageSet, read_split
from components.evaluate.config import EvaluateConfig
from components.evaluate.features.extractor_training import train_extractor
from components.evaluate.metrics import fid, kid
from components.ingest.config import IngestConfig
from components.ingest.run import run as ingest
from components.train import noise
from components.train.config import TrainConfig
from docs import lipschitz_figures, lipschitz_points
from docs.lipschitz_digits import DigitTraining, TrainingMoment, weights_of
from docs.lipschitz_points import POINTS, point_critic, train_point_critic

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "quickstart.toml"
BOUNDS: dict[str, dict[str, Any]] = {
    "gradient penalty": {"lipschitz": "penalty"},
    "clipping, c = 0.01": {"lipschitz": "clip", "clip_value": 0.01},
    "clipping, c = 0.1": {"lipschitz": "clip", "clip_value": 0.1},
}


class PointCritic(NamedTuple):
    """A trained critic of points: gap, scores on a grid, slopes at mixed points, gradient norms by layer, weights."""

    gap: float
    surface: np.ndarray
    slopes: np.ndarray
    gradient_norms: np.ndarray
    weights: np.ndarray


class ScoredMoment(NamedTuple):
    """A moment of a training, with its scores against the training images."""

    moment: TrainingMoment
    fid: float
    kid: float


class Case(NamedTuple):
    """A size of the digits, the channels of its networks, and the number of rounds."""

    size: int
    channels: int
    rounds: int

    def config(self, bound: dict[str, Any]) -> TrainConfig:
        """Return the quickstart's [train] section for this size, with two critic steps, one rate, and no end of rounds."""
        changes = {"generator_channels": self.channels, "critic_channels": self.channels, "rounds": 10**8}
        changes |= {"n_critic": 2, "critic_learning_rate": 1e-3}
        return TrainConfig(**{**read_section(TrainConfig, "train", CONFIG).model_dump(), **changes, **bound})


CASES = (Case(8, 32, 800), Case(32, 8, 400))


def point_critics(hidden_layers: int, steps: int, width: int = 64) -> dict[str, PointCritic]:
    """Train a critic of points with each bound; return them by the bound's name."""
    trained = {}
    for name, bound in BOUNDS.items():
        config = TrainConfig(**{**POINTS, **bound})
        critic = point_critic(hidden_layers, width)
        gap = train_point_critic(config, critic, steps)
        points = lipschitz_points.ring(lipschitz_points.point_seed(config.seed, noise.FIXED_LATENTS), 512)
        trained[name] = PointCritic(
            gap,
            lipschitz_points.surface(critic),
            lipschitz_points.point_slopes(config, critic),
            lipschitz_points.gradient_norms(critic, points),
            weights_of(critic),
        )
    return trained


def digit_trainings(
    case: Case, train: ImageSet, held_out: ImageSet, count: int
) -> dict[str, tuple[ScoredMoment, ScoredMoment]]:
    """Train with each bound; return the moments after the same number of rounds, and after the same CPU seconds."""
    extractor = train_extractor(train, held_out, EvaluateConfig().extractor_epochs)
    real = extractor.features(train.images)

    def scored(moment: TrainingMoment) -> ScoredMoment:
        features = extractor.features(moment.samples)
        return ScoredMoment(moment, fid.compute(real, features), kid.compute(real, features))

    results: dict[str, tuple[ScoredMoment, ScoredMoment]] = {}
    seconds = 0.0
    for name, bound in BOUNDS.items():
        training = DigitTraining(train.images, case.config(bound))
        training.train(rounds=case.rounds)
        same_rounds = scored(training.moment(count))
        seconds = seconds or training.cpu_seconds
        training.train(cpu_seconds=seconds)
        later = training.rounds > same_rounds.moment.rounds
        results[name] = (same_rounds, scored(training.moment(count)) if later else same_rounds)
    return results


def digits(size: int, folder: Path) -> tuple[ImageSet, ImageSet]:
    """Return the quickstart's digits in this size: the training images and the held-out images."""
    out = folder / str(size)
    ingest(read_section(IngestConfig, "ingest", CONFIG).model_copy(update={"image_size": size}), out=out)
    return read_split(out, "train"), read_split(out, "eval")


def print_points(hidden_layers: int, critics: dict[str, PointCritic]) -> None:
    """Print a table row for each critic of points: gap, slopes, gradient norms at the first and the last hidden layer."""
    for name, critic in critics.items():
        norms = critic.gradient_norms
        values = [critic.gap, *np.percentile(critic.slopes, [5, 50, 95]), norms[0], norms[-1]]
        print(f"| {hidden_layers} | {name} |", " | ".join(f"{value:.2g}" for value in values), "|")


def print_digits(case: Case, results: dict[str, tuple[ScoredMoment, ScoredMoment]]) -> None:
    """Print a table row for each training and moment."""
    for name, moments in results.items():
        for scored in moments if moments[1] is not moments[0] else moments[:1]:
            low, middle, high = np.percentile(scored.moment.slopes, [5, 50, 95])
            print(
                f"| {case.size}×{case.size} | {name} | {scored.moment.rounds} | {scored.moment.cpu_seconds:.1f} "
                f"| {scored.fid:.3f} | {scored.kid:.4f} | {low:.2g} | {middle:.2g} | {high:.2g} |"
            )


def main() -> None:
    """Train everything, draw the pictures, print the tables."""
    shallow, deep = point_critics(4, 1000), point_critics(12, 600)
    lipschitz_figures.draw_critics(shallow, deep, HERE / "lipschitz_critics.png")
    print_points(4, shallow)
    print_points(12, deep)
    samples = read_section(EvaluateConfig, "evaluate", CONFIG).samples
    with tempfile.TemporaryDirectory() as folder:
        images = {case: digits(case.size, Path(folder)) for case in CASES}
    results = {case: digit_trainings(case, *images[case], samples) for case in CASES}
    for case in CASES:
        print_digits(case, results[case])
    lipschitz_figures.draw_digits({case: images[case][0].images for case in CASES}, results, HERE / "lipschitz_digits.png")


if __name__ == "__main__":
    main()
