"""Executed programs: what is refused, and the comparison with the CPU, without TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from components.tpu_check import compiler, executor, parity
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.errors import CompilerMissingError, ExecutionRefusedError
from components.tpu_check.parity import Bounds
from components.tpu_check.subprocesses import run_subprocess

METRICS = np.arange(1.0, 13.0).reshape(2, 6)
BOUNDS = Bounds(1e-4, 0.03, 0.03, by_variable=True)
START, AFTER = {"critic/kernel": np.array([1.0, 2.0])}, {"critic/kernel": np.array([1.1, 2.0])}


def updates(found: float) -> list[dict[str, float]]:
    return [parity.update_differences(START, AFTER, {"critic/kernel": np.array([found, 2.0])}, by_variable=True)]


def test_equal_trainings_have_no_difference() -> None:
    largest = parity.compare((METRICS, METRICS), updates(1.1), BOUNDS)
    assert (largest.metric.difference, largest.weight) == (0.0, (0.0, "critic/kernel", 1))


def test_weights_and_moments_have_their_own_bounds() -> None:
    bounds = Bounds(1e-4, moments=0.1, weights=0.4, by_variable=True)
    found = {"critic/kernel": 0.3, "critic_optimizer/momentum": 0.05}
    largest = parity.compare((METRICS, METRICS), [found], bounds)
    assert (largest.moment.difference, largest.weight.difference) == (0.05, 0.3)
    with pytest.raises(
        ExecutionRefusedError, match=r"update of critic_optimizer/momentum in round 2 .* 2\.0e-01 .*at most 0\.1"
    ):
        parity.compare((METRICS, METRICS), [found, found | {"critic_optimizer/momentum": 0.2}], bounds)


def test_a_difference_is_relative_to_the_size_of_the_update() -> None:
    assert updates(1.15)[0]["critic/kernel"] == pytest.approx(0.5)
    assert updates(1.0)[0]["critic/kernel"] == pytest.approx(1.0)
    rounding = {"x": np.array([1.0 + 1e-7])}
    assert parity.update_differences({"x": np.ones(1)}, {"x": np.ones(1)}, rounding, by_variable=True)["x"] < 2e-4


def test_the_variables_of_a_network_can_be_compared_together() -> None:
    before = {"critic/a": np.zeros(1), "critic/b": np.zeros(1), "generator/a": np.zeros(1)}
    after, found = ({name: np.ones(1) for name in before} for _ in range(2))
    found["critic/a"] = np.zeros(1)
    together = parity.update_differences(before, after, found, by_variable=False)
    assert together == {"critic": pytest.approx(0.5**0.5), "generator": 0.0}


@pytest.mark.parametrize("value", [6.0, np.nan, np.inf])
def test_the_metric_that_differs_most_in_the_first_wrong_round_is_named(value: float) -> None:
    found = METRICS.copy()
    found[1, 2] = value
    found[1, 3] *= 1.001
    with pytest.raises(ExecutionRefusedError, match=rf"penalty of round 2 is {value:.6g} and 9 on the CPU \(difference"):
        parity.compare((METRICS, found), updates(1.1), BOUNDS)


@pytest.mark.parametrize("value", [1.2, np.nan])
def test_the_variable_whose_update_differs_is_named(value: float) -> None:
    with pytest.raises(ExecutionRefusedError, match=r"the update of critic/kernel in round 1 differs by"):
        parity.compare((METRICS, METRICS), updates(value), BOUNDS)


def test_replicas_that_differ_are_named() -> None:
    with pytest.raises(
        ExecutionRefusedError, match=r"replicas do not agree: critic/a differs between them .*first of 2 results"
    ):
        parity.compare((METRICS, METRICS), updates(1.1), BOUNDS, ("critic/a", "critic/b"))


def test_an_execution_is_shown_with_its_sizes_differences_and_bounds() -> None:
    execution = parity.Execution(
        rounds=5, replicas=8, precision="float32", data="resident", global_batch_size=16, generator_channels=8,
        critic_channels=4, bounds=Bounds(1e-3, 0.1, 0.4, by_variable=True), differences=parity.Differences(
            parity.Largest(2e-7, "penalty", 3), parity.Largest(1e-3, "critic_optimizer/0", 1),
            parity.Largest(0.1, "critic/0", 2),
        ),
        seconds=20.3, needed_bytes=1, peak_memory_bytes=900_000_000,
    )  # fmt: skip
    assert dict(parity.rows(execution)) == {
        "executed, float32": "5 rounds on 8 virtual replicas, at batch 16 and 4 and 8 channels",
        "metrics as on the CPU": "within 2.0e-07, at most 0.001 (penalty, round 3)",
        "moments as on the CPU": "within 1.0e-03, at most 0.1 (critic_optimizer/0, round 1)",
        "weights as on the CPU": "within 1.0e-01, at most 0.4 (critic/0, round 2)",
        "execution": "20 s, 0.9 GB of memory",
    }


def test_parts_of_metrics_are_summed_and_everything_else_must_be_equal() -> None:
    bundle = executor.Bundle("", 2, (), ("part_metrics", "whole_metrics", "critic/a", "critic/b"), ())
    part, whole, same = np.ones((3, 4), np.float32), np.zeros((3, 2), np.float32), np.ones(2)
    outcome = executor.outcome_of(bundle, [[part, 2 * part], [whole, whole], [same, same + 1e-15], [same, same]])
    assert outcome.metrics.tolist() == [[3.0] * 4 + [0.0] * 2] * 3
    assert (list(outcome.variables), outcome.differing) == (["critic/a", "critic/b"], ("critic/a",))


def test_too_little_memory_is_refused_with_the_sizes() -> None:
    executor.check_memory(8_000_000_000, 8, 8_000_000_000)
    with pytest.raises(
        ExecutionRefusedError, match=r"^8 replicas of the program need 9\.00 GB of memory; 8\.00 GB are available"
    ):
        executor.check_memory(9_000_000_000, 8, 8_000_000_000)


def test_a_container_can_use_what_its_control_group_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "GROUP", tmp_path)
    machine = executor.available_bytes()
    assert machine > 10_000_000
    (tmp_path / "memory.current").write_text("9000000\n")
    (tmp_path / "memory.stat").write_text("anon 2000000\ninactive_file 6000000\n")
    for limit, expected in (("max\n", pytest.approx(machine, rel=0.5)), ("10000000\n", 7_000_000)):
        (tmp_path / "memory.max").write_text(limit)
        assert executor.available_bytes() == expected


def test_another_jax_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_version", {"jax": "0.10.2", "jaxlib": "0.9.0"}.__getitem__)
    with pytest.raises(CompilerMissingError, match=r"needs jax==0\.10\.2 jaxlib==0\.10\.2; found here: jaxlib 0\.9\.0\."):
        executor.find_devices(1)


UNKNOWN_CALL = """func.func public @main(%x: tensor<f32>) -> (tensor<f32>) {
  %y = stablehlo.custom_call @no_such_function(%x) : (tensor<f32>) -> tensor<f32>
  return %y : tensor<f32>
}"""
TERABYTES = """func.func public @main(%x: tensor<f32>) -> (tensor<1000000000000xf32>) {
  %y = stablehlo.broadcast_in_dim %x, dims = [] : (tensor<f32>) -> tensor<1000000000000xf32>
  return %y : tensor<1000000000000xf32>
}"""


@pytest.mark.parametrize(
    ("text", "replicas", "sentence"),
    [
        (UNKNOWN_CALL, 2, r"^XLA's compiler for CPU refuses the program: .*no_such_function"),
        ("no program", 2, r"^XLA's compiler for CPU refuses the program: "),
        (TERABYTES, 2, r"^2 replicas of the program need 8000\.00 GB of memory; \S+ GB are available\. Execute fewer"),
        (UNKNOWN_CALL, 3, r"^The program is for 3 replicas and JAX has 2 cpu devices here\.$"),
    ],
)
def test_what_cannot_be_executed_is_refused(text: str, replicas: int, sentence: str, tmp_path: Path) -> None:
    pytest.importorskip("jaxlib")
    (tmp_path / "program.mlir").write_text(text)
    (tmp_path / "program.json").write_text(json.dumps({"replicas": replicas, "arguments": ["x"], "results": ["y"]}))
    executor.save_arrays(tmp_path / "arguments-000.npz", {"x": np.zeros((), np.float32)})
    with pytest.raises(ExecutionRefusedError, match=sentence):
        run_subprocess("components.tpu_check.executor", TpuCheckConfig(), tmp_path, executor.environment(2))
