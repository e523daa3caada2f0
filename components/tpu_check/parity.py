"""Executes the program of a training on virtual replicas, and compares it with the same training on this machine's CPU.

Two correct trainings drift apart: the derivative of the leaky ReLU jumps at zero, and Adam's first updates have the size of the
learning rate however small the gradient is, so a rounding error of 1e-8 may become a difference of 1e-2 within ten rounds.
Therefore each round of the program starts from the weights that the CPU had before it, and the bounds are those of one round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.common.progress import say
from components.common.section import Summary
from components.tpu_check import executor
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.errors import ExecutionRefusedError
from components.tpu_check.executor import Array, load_arrays
from components.tpu_check.subprocesses import run_subprocess

# step.METRICS, which cannot be imported without TensorFlow
METRICS = ("critic_loss", "wasserstein_gap", "penalty", "generator_loss", "critic_grad_norm", "generator_grad_norm")
SMALL = 1e-3  # a metric near zero is compared as if it were so large
TENSORFLOW_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


class Bounds(NamedTuple):
    """The largest differences that count as equal.

    `metrics`: of a metric, relative to the largest value that it has in any round. `moments` and `weights`: of the change of
    an optimizer's variable and of a network's, relative to the size of the change. `by_variable`: whether each variable is
    compared alone, or the variables of each network and optimizer together.
    """

    metrics: float
    moments: float
    weights: float
    by_variable: bool

    def of(self, name: str) -> float:
        """Return the bound of a variable, or of the variables of a network or optimizer."""
        return self.moments if is_moment(name) else self.weights


# float32 sums in another order: seen were 4e-5, 7e-3 and 0.13 (docs/tpu.md). Adam's moments are those of the gradients. Its
# first step turns a gradient into its sign, even one that is only rounding, so the weights differ more. bfloat16 has 8 bits,
# and TensorFlow and XLA round at other places: seen were 0.02, 0.12 and 0.31. A sum that is wrong by the replicas differs by
# 0.5 or more.
BOUNDS = {
    "float32": Bounds(1e-3, 0.1, 0.45, by_variable=True),
    "bfloat16": Bounds(0.1, 0.4, 0.9, by_variable=False),
}


def is_moment(name: str) -> bool:
    """Return whether a variable belongs to an optimizer."""
    return name.partition("/")[0].endswith("_optimizer")


class Largest(NamedTuple):
    """A difference, and where it was: the name of a metric or variable, and the round (from 1)."""

    difference: float
    name: str
    round: int

    def text(self, bound: float) -> str:
        """Return all this with its bound, in words."""
        return f"within {self.difference:.1e}, at most {bound:g} ({self.name}, round {self.round})"


class Differences(NamedTuple):
    """The largest differences of a metric, of the change of an optimizer's variable, and of the change of a weight."""

    metric: Largest
    moment: Largest
    weight: Largest


class Execution(Summary):
    """A program that was executed on `replicas` virtual replicas and agreed with the CPU; sizes, differences and bounds.

    `seconds` are those of both trainings with their compilation. `needed_bytes` is what XLA counts for all replicas,
    `peak_memory_bytes` what the process that executed them had at most, most of it for compilation.
    """

    rounds: int
    replicas: int
    precision: str
    data: str
    global_batch_size: int
    generator_channels: int
    critic_channels: int
    differences: Differences
    bounds: Bounds
    seconds: float
    needed_bytes: int
    peak_memory_bytes: int


def metric_differences(expected: Array, found: Array) -> Array:
    """Return how far metrics [R, 6] are apart, relative to the largest value of each metric; infinite if one is not finite."""
    scale = np.maximum(np.abs(expected).max(axis=0), SMALL)
    return np.asarray(np.nan_to_num(np.abs(expected - found) / scale, nan=np.inf))


def update_differences(
    before: Mapping[str, Array], expected: Mapping[str, Array], found: Mapping[str, Array], *, by_variable: bool
) -> dict[str, float]:
    """Return how far the updates of the variables in `found` are apart, relative to the size of the expected update.

    Sizes are Euclidean norms. An update of less than a thousandth of its variable counts as that, since rounding weighs more.
    """
    squares: dict[str, Array] = {}
    for name in found:
        start, one, other = (each[name].astype(np.float64).ravel() for each in (before, expected, found))
        size = max(np.square(one - start).sum(), 1e-6 * np.square(one).sum(), np.finfo(np.float64).tiny)
        group = name if by_variable else name.partition("/")[0]
        squares[group] = squares.get(group, np.zeros(2)) + np.array([np.square(one - other).sum(), size])
    return {
        group: float(np.nan_to_num(np.sqrt(difference / size), nan=np.inf)) for group, (difference, size) in squares.items()
    }


def compare(
    metrics: tuple[Array, Array], updates: list[dict[str, float]], bounds: Bounds, differing: tuple[str, ...] = ()
) -> Differences:
    """Return the largest differences between the expected and the found metrics [R, 6], and of the updates of each call.

    Raises ExecutionRefusedError naming what differs between replicas, or differs most in the first round that is out of bounds.
    """
    if differing:
        first = " or ".join(METRICS[4:]) if differing[0] == "whole_metrics" else differing[0]
        raise ExecutionRefusedError(
            f"The replicas do not agree: {first} differs between them after equal rounds (first of {len(differing)} results).",
            "Sum every gradient, and every metric that is not a part of a sum, over the replicas before it is used.",
        )
    apart = metric_differences(*metrics)
    if (apart > bounds.metrics).any():
        row = int(np.argwhere(apart > bounds.metrics)[0, 0])
        column = int(np.argmax(apart[row]))
        expected, found = (float(each[row, column]) for each in metrics)
        raise ExecutionRefusedError(
            f"Executed on replicas, the program does not train as the CPU does: {METRICS[column]} of round {row + 1} is"
            f" {found:.6g} and {expected:.6g} on the CPU (difference {apart[row, column]:.1e}, at most {bounds.metrics:.0e}"
            " expected).",
            "A loss that is divided or summed wrongly, or rows and noise that replicas share, are the usual reasons.",
        )
    for call, each in enumerate(updates, start=1):
        if wrong := sorted((difference, name) for name, difference in each.items() if difference > bounds.of(name)):
            difference, name = wrong[-1]
            raise ExecutionRefusedError(
                f"Executed on replicas, the program does not train as the CPU does: the update of {name} in round {call}"
                f" differs by {difference:.1e} of its size (at most {bounds.of(name):g} expected), the most of {len(wrong)}.",
                "A gradient that is not summed, or is summed twice, is the usual reason.",
            )
    row, column = (int(index) for index in np.unravel_index(np.argmax(apart), apart.shape))
    all_updates = [
        Largest(difference, name, call) for call, each in enumerate(updates, start=1) for name, difference in each.items()
    ]
    return Differences(
        Largest(float(apart[row, column]), METRICS[column], row + 1),
        max((each for each in all_updates if is_moment(each.name)), default=Largest(0.0, "none", 0)),
        max((each for each in all_updates if not is_moment(each.name)), default=Largest(0.0, "none", 0)),
    )


def execute(config: TpuCheckConfig, precision: str, folder: Path) -> Execution:
    """Execute `config.execute_rounds` rounds of the program at a smaller size (reference.smaller); compare with the CPU.

    Raises ExecutionRefusedError if they differ or the program cannot be executed.
    """
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})
    rounds, replicas, bounds = config.execute_rounds, config.slice.replicas, BOUNDS[precision]
    say(f"Training {rounds} rounds on the CPU in {precision}, at a smaller size")
    trained = run_subprocess("components.tpu_check.reference", config, folder, TENSORFLOW_ENVIRONMENT)
    say(f"Executing the program of these rounds on {replicas} virtual replicas")
    executed = run_subprocess("components.tpu_check.executor", config, folder, executor.environment(replicas))
    states = [load_arrays(folder / f"state-{number:03}.npz") for number in range(rounds + 1)]
    results = [load_arrays(folder / f"results-{number:03}.npz") for number in range(rounds)]
    figures = json.loads((folder / "execution.json").read_text())
    metrics = load_arrays(folder / "expected.npz")["metrics"], np.concatenate([each.pop("metrics") for each in results])
    updates = [
        update_differences(before, after, found, by_variable=bounds.by_variable)
        for before, after, found in zip(states, states[1:], results, strict=False)
    ]
    return Execution(
        rounds=rounds,
        replicas=replicas,
        precision=precision,
        **json.loads((folder / "sizes.json").read_text()),
        differences=compare(metrics, updates, bounds, tuple(figures["differing"])),
        bounds=bounds,
        seconds=round(trained.seconds + executed.seconds, 1),
        needed_bytes=figures["needed_bytes"],
        peak_memory_bytes=figures["peak_memory_bytes"],
    )


def rows(execution: Execution) -> list[tuple[str, str]]:
    """Return an execution as rows of (name, value) to print."""
    channels = " and ".join(str(each) for each in sorted({execution.generator_channels, execution.critic_channels}))
    ran = f"{execution.rounds} rounds on {execution.replicas} virtual replicas"
    return [
        (f"executed, {execution.precision}", f"{ran}, at batch {execution.global_batch_size} and {channels} channels"),
        ("metrics as on the CPU", execution.differences.metric.text(execution.bounds.metrics)),
        ("moments as on the CPU", execution.differences.moment.text(execution.bounds.moments)),
        ("weights as on the CPU", execution.differences.weight.text(execution.bounds.weights)),
        ("execution", f"{execution.seconds:.0f} s, {execution.peak_memory_bytes / 1e9:.1f} GB of memory"),
    ]
