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
from components.tpu_check.executor import Array, load_arrays, results_file
from components.tpu_check.subprocesses import run_subprocess

# step.METRICS, which cannot be imported without TensorFlow
METRICS = ("critic_loss", "wasserstein_gap", "penalty", "generator_loss", "critic_grad_norm", "generator_grad_norm")
SMALL = 1e-3  # a metric near zero is compared as if it were so large
TENSORFLOW_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


class Bounds(NamedTuple):
    """The largest differences that count as equal.

    `metrics`: of a metric, relative to the largest value that it has in any round. `updates`: of the change of a variable,
    relative to its size. `by_variable`: whether each variable is compared alone, or the variables of each network and optimizer
    together.
    """

    metrics: float
    updates: float
    by_variable: bool


# float32 sums in another order. Largest differences that were seen: 5e-6 and 2e-3 (configs/celeba64.toml, docs/tpu.md); the
# larger one is an Adam moment whose gradients cancel. bfloat16 has 8 bits, and TensorFlow and XLA round at other places: single
# variables with cancelling gradients differ by half of their update, whole networks by less.
BOUNDS = {"float32": Bounds(1e-4, 0.03, by_variable=True), "bfloat16": Bounds(0.1, 0.5, by_variable=False)}


class Differences(NamedTuple):
    """The largest difference of a metric with its name and round (from 1), and of an update with the name of the variable."""

    metric: float
    metric_name: str
    metric_round: int
    update: float
    update_name: str


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
    largest_metric_difference: float
    largest_metric_name: str
    largest_metric_round: int
    metric_bound: float
    largest_update_difference: float
    largest_update_name: str
    update_bound: float
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
        if wrong := sorted((difference, name) for name, difference in each.items() if difference > bounds.updates):
            difference, name = wrong[-1]
            raise ExecutionRefusedError(
                f"Executed on replicas, the program does not train as the CPU does: the update of {name} in round {call}"
                f" differs by {difference:.1e} of its size (at most {bounds.updates:.0e} expected), the most of {len(wrong)}.",
                "A gradient that is not summed, or is summed twice, is the usual reason.",
            )
    row, column = (int(index) for index in np.unravel_index(np.argmax(apart), apart.shape))
    largest = [max(each.items(), key=lambda item: item[1]) for each in updates]
    name, difference = max(largest, key=lambda item: item[1])
    return Differences(float(apart[row, column]), METRICS[column], row + 1, difference, name)


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
    results = [load_arrays(folder / results_file(number)) for number in range(rounds)]
    figures = json.loads((folder / "execution.json").read_text())
    metrics = load_arrays(folder / "expected.npz")["metrics"], np.concatenate([each.pop("metrics") for each in results])
    updates = [
        update_differences(before, after, found, by_variable=bounds.by_variable)
        for before, after, found in zip(states, states[1:], results, strict=False)
    ]
    largest = compare(metrics, updates, bounds, tuple(figures["differing"]))
    return Execution(
        rounds=rounds,
        replicas=replicas,
        precision=precision,
        **json.loads((folder / "sizes.json").read_text()),
        largest_metric_difference=largest.metric,
        largest_metric_name=largest.metric_name,
        largest_metric_round=largest.metric_round,
        metric_bound=bounds.metrics,
        largest_update_difference=largest.update,
        largest_update_name=largest.update_name,
        update_bound=bounds.updates,
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
        (
            "metrics as on the CPU",
            f"within {execution.largest_metric_difference:.1e}, at most {execution.metric_bound:g}"
            f" ({execution.largest_metric_name}, round {execution.largest_metric_round})",
        ),
        (
            "updates as on the CPU",
            f"within {execution.largest_update_difference:.1e}, at most {execution.update_bound:g}"
            f" ({execution.largest_update_name})",
        ),
        ("execution", f"{execution.seconds:.0f} s, {execution.peak_memory_bytes / 1e9:.1f} GB of memory"),
    ]
