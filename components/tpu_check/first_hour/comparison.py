"""Compares two trainings of the same configuration: their metrics line by line, and their final weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.tpu_check.parity import METRICS
from components.train.progress import MetricsLine

NETWORKS = ("generator", "critic", "ema_generator")
SHOWN = 5


class Bounds(NamedTuple):
    """The largest differences that are allowed.

    Of a metric, in the first line and in any line: relative to its largest value in the training. Of a network's weights:
    the norm of the difference relative to the norm of the weights.
    """

    first_line: float
    any_line: float
    weights: float


# Sums in another order, and functions such as exp that differ in the last bit, move float32 by 1e-7 a round. tests/parity
# allows 1e-5 after 20 rounds, with a smooth function in place of the leaky ReLU. The real one has a jump in its derivative,
# which such a move may cross (decision 0004): with other kernels on one CPU, the first line was 1e-7 apart and the others up to
# 2e-3, the weights 6e-4. A wrong sum or wrong noise is larger than the first bound at once.
FLOAT32 = Bounds(first_line=1e-4, any_line=2e-2, weights=2e-2)
# bfloat16 keeps 8 bits, so other kernels differ by 4e-3 in each layer. Measured in the same way: 2e-3, 4e-2 and 4e-2.
BFLOAT16 = Bounds(first_line=2e-2, any_line=1e-1, weights=1e-1)


class Trained(NamedTuple):
    """The results of a training: the lines of its metrics, and the variables of its last checkpoint by name."""

    lines: list[MetricsLine]
    arrays: dict[str, npt.NDArray[Any]]


def read_trained(folder: Path) -> Trained:
    """Return the results of the training whose `model` and `work` are in `folder`. Raises OSError, ValueError, IndexError."""
    lines = [MetricsLine.model_validate_json(line) for line in (folder / "model" / "metrics.jsonl").read_text().splitlines()]
    last = sorted(folder.glob("work/checkpoints/*/round-*/state.npz"))[-1]
    with np.load(last, allow_pickle=False) as arrays:
        return Trained(lines, {name: arrays[name] for name in arrays.files})


def compared(one: Trained, other: Trained, bounds: Bounds, names: tuple[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the differences of two trainings as facts, and a sentence for each that exceeds its bound."""
    if [line.round for line in one.lines] != [line.round for line in other.lines] or one.arrays.keys() != other.arrays.keys():
        return {}, [f"{names[0]} and {names[1]} have not logged the same rounds, or have other variables."]
    problems, largest = [], np.zeros(len(one.lines))
    for metric in METRICS:
        values, others = (np.array([getattr(line, metric) for line in each.lines]) for each in (one, other))
        apart = np.abs(values - others) / max(float(np.abs(others).max()), 1e-6)
        largest = np.maximum(largest, apart)
        for index, difference in enumerate(apart):
            bound = bounds.first_line if index == 0 else bounds.any_line
            if not difference <= bound:
                problems.append(
                    f"Round {one.lines[index].round}: {metric} is {values[index]:.8g} on {names[0]} and {others[index]:.8g} on"
                    f" {names[1]}, {difference:.1e} of its largest value apart (at most {bound:.0e})."
                )
    weights = {name: _distance(one, other, name) for name in NETWORKS}
    problems += [
        f"The weights of {name} differ by {distance:.1e} of their norm (at most {bounds.weights:.0e})."
        for name, distance in weights.items()
        if not distance <= bounds.weights
    ]
    facts = {
        "lines compared": f"{len(one.lines)}, with {len(METRICS)} metrics each",
        "first line": f"{largest[0]:.1e} apart, at most {bounds.first_line:.0e}",
        "other lines": f"{largest[1:].max(initial=0.0):.1e} apart, at most {bounds.any_line:.0e}",
        "line by line": " ".join(f"{difference:.0e}" for difference in largest),
        "weights": ", ".join(f"{name} {each:.1e}" for name, each in weights.items()) + f" apart, at most {bounds.weights:.0e}",
    }
    return facts, shortened(problems)


def unequal(one: Trained, other: Trained) -> list[str]:
    """Return a sentence for each metric and variable of two trainings that is not the same, bit for bit."""
    problems = []
    rows = [[line.model_dump(exclude={"seconds"}) for line in each.lines] for each in (one, other)]
    if len(rows[0]) != len(rows[1]):
        problems.append(f"There are {len(rows[0])} lines of metrics, not {len(rows[1])}.")
    for row, expected in zip(*rows, strict=False):
        problems += [
            f"Round {row['round']}: {name} is {json.dumps(row[name])}, not {json.dumps(expected[name])}."
            for name in row
            if row[name] != expected[name]
        ]
    if one.arrays.keys() != other.arrays.keys():
        problems.append("The checkpoints have other variables.")
    problems += [
        f"{name} differs by up to {np.abs(array - other.arrays[name]).max():.1e}."
        for name, array in one.arrays.items()
        if name in other.arrays and array.tobytes() != other.arrays[name].tobytes()
    ]
    return shortened(problems)


def shortened(problems: Sequence[str]) -> list[str]:
    """Return the first sentences, and how many more there are."""
    more = len(problems) - SHOWN
    return [*problems[:SHOWN], *([f"There are {more} more differences."] if more > 0 else [])]


def _distance(one: Trained, other: Trained, network: str) -> float:
    values, others = (
        np.concatenate([array.ravel() for name, array in each.arrays.items() if name.startswith(f"{network}/")])
        for each in (one, other)
    )
    return float(np.linalg.norm(values - others) / np.linalg.norm(others))
