"""The StableHLO that a TPU would compile, executed on virtual replicas of the CPU: it trains as TensorFlow does there.

A test executes ROUNDS rounds in one call, from the initial weights, and compares all metrics and variables.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from components.tpu_check.errors import ExecutionRefusedError
from components.tpu_check.lowering import SliceReplicaContext
from components.tpu_check.parity import METRICS, Bounds
from components.train import losses, noise, step
from tests.tpu.executed import SGD, config_for, executed, smooth, trained_on_cpu, two_chips

__all__ = ["smooth", "two_chips"]  # fixtures
pytestmark = [pytest.mark.usefixtures("jax_expected", "smooth", "two_chips")]
IN_FLOAT32 = Bounds(2e-6, 1e-3, 1e-3, by_variable=True)  # sums in another order
IN_BFLOAT16 = Bounds(0.02, 0.1, 0.1, by_variable=False)  # rounded to 8 bits, at other places


def test_the_metrics_have_the_names_of_the_step() -> None:
    assert METRICS == step.METRICS


def test_the_program_trains_as_the_cpu_does_in_five_rounds(tmp_path: Path) -> None:
    found = executed(config_for(8, rounds=5, **SGD), tmp_path).compare(IN_FLOAT32)
    assert 0 < found.metric.difference < IN_FLOAT32.metrics, "the program is not the CPU's function, so it rounds otherwise"


@pytest.mark.heavy
@pytest.mark.parametrize("replicas", [1, 2, 4, 8])
@pytest.mark.parametrize("optimizer", [SGD, {}], ids=["SGD", "Adam"])
def test_any_number_of_replicas(optimizer: dict[str, Any], replicas: int, tmp_path: Path) -> None:
    print(executed(config_for(replicas, **optimizer), tmp_path).compare(IN_FLOAT32))


KINDS: dict[str, dict[str, Any]] = {
    "residual": {"networks": "residual"},
    "conditional": {"conditional": True},
    "lazy penalty": {"penalty_every_rounds": 4},
    "clip": {"lipschitz": "clip"},
    "falling rates": {"decay_share": 0.75},
    "images are sent": {"data": "stream"},
    "residual, conditional, sent": {"networks": "residual", "conditional": True, "data": "stream"},
}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_training(kind: str, tmp_path: Path) -> None:
    print(executed(config_for(4, **KINDS[kind]), tmp_path).compare(IN_FLOAT32))


@pytest.mark.heavy
@pytest.mark.parametrize("networks", ["plain", "residual"])
def test_in_bfloat16(networks: str, tmp_path: Path) -> None:
    config = config_for(8, networks=networks, precision="bfloat16")
    print(executed(config, tmp_path).compare(IN_BFLOAT16))


def no_all_reduce(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step, "summed", list)


def mean_of_gradients(patch: pytest.MonkeyPatch) -> None:
    """The gradients of parts of a sum are averaged over replicas."""
    summed = SliceReplicaContext._sum
    patch.setattr(SliceReplicaContext, "_sum", lambda self, tensor: summed(self, tensor) / self.num_replicas_in_sync)


def sum_of_means(patch: pytest.MonkeyPatch) -> None:
    """Each replica divides by its own rows, and the means are summed."""
    patch.setattr(losses, "replica_mean", lambda per_example, _: tf.reduce_mean(per_example))


def equal_noise(patch: pytest.MonkeyPatch) -> None:
    drawn = noise.round_noise
    patch.setattr(noise, "round_noise", lambda seed, index, rows, *sizes: drawn(seed, index, rows._replace(first=0), *sizes))


def rows_twice(patch: pytest.MonkeyPatch) -> None:
    """The second of two replicas has the rows of the first."""
    rows = noise.replica_rows
    patch.setattr(noise, "replica_rows", lambda replica_id, *sizes: rows(replica_id // 2 * 2, *sizes))


def metric_not_reduced(patch: pytest.MonkeyPatch) -> None:
    """The norm of the generator's gradient is that of this replica's part."""
    made = step.generator_gradients
    norm, parts = tf.linalg.global_norm, []

    def gradients(*arguments: Any) -> Any:
        result = made(*arguments)
        parts[:] = result[0]
        return result

    patch.setattr(step, "generator_gradients", gradients)
    patch.setattr(tf.linalg, "global_norm", lambda gradients: norm(parts or gradients))


SUMMED = r"replicas do not agree: critic_grad_norm or generator_grad_norm differs between them after equal rounds \(first of "
MISTAKES: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (
        mean_of_gradients,
        r"(critic|generator)_grad_norm of round 1 is \S+ and \S+ on the CPU \(difference [45]\.\de-01, at most",
    ),
    (sum_of_means, r"\w+ of round 1 is \S+ and \S+ on the CPU \(difference 1\.0e\+00, at most"),
    (equal_noise, r"\w+ of round 1 is \S+ and \S+ on the CPU \(difference \d\.\de-0[12], at most"),
    (rows_twice, r"\w+ of round 1 is \S+ and \S+ on the CPU \(difference \d\.\de-0[12], at most"),
    (metric_not_reduced, SUMMED + r"1 results\)"),
]


def sentence_after(mistake: Callable[[pytest.MonkeyPatch], None], precision: str, folder: Path) -> str:
    """Return the error for a program with a mistake, compared with the CPU without it."""
    config = config_for(2, rounds=2, precision=precision)
    trained = trained_on_cpu(config)
    with pytest.MonkeyPatch.context() as patch:
        mistake(patch)
        planted = executed(config, folder, trained)
    with pytest.raises(ExecutionRefusedError) as noticed:
        planted.compare({"float32": IN_FLOAT32, "bfloat16": IN_BFLOAT16}[precision])
    print(noticed.value.problem)
    return noticed.value.problem


def test_a_program_without_all_reduce_is_noticed(tmp_path: Path) -> None:
    assert re.search(SUMMED + r"\d\d results\)", sentence_after(no_all_reduce, "float32", tmp_path))


@pytest.mark.heavy
@pytest.mark.parametrize(("mistake", "sentence"), MISTAKES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_mistake_is_noticed(mistake: Callable[[pytest.MonkeyPatch], None], sentence: str, tmp_path: Path) -> None:
    """In bfloat16, where the bounds are widest."""
    assert re.search(sentence, sentence_after(mistake, "bfloat16", tmp_path))
