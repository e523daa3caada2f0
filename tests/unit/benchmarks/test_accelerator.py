"""benchmarks/accelerator: a bundle runs on XLA's CPU as on TensorFlow's, and another program does not pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import accelerator
from components.common.errors import PipelineError
from components.tpu_check import executor
from components.tpu_check.executor import Array

ROOT = Path(__file__).parents[3]
TINY = ["global_batch_size=8", "generator_channels=8", "critic_channels=8", "optimizer=sgd"]


def benchmark(*words: str, program: str = "accelerator.py") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, f"benchmarks/{program}", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.heavy
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_bundle_on_the_cpu(precision: str, tmp_path: Path) -> None:
    settings = [word for name in (*TINY, f"precision={precision}") for word in ("--set", f"train.{name}")]
    made = benchmark("prepare", str(tmp_path), "configs/quickstart.toml", *settings, "--rounds", "5", "--images", "64")
    assert made.returncode == 0, made.stderr
    done = benchmark("run", str(tmp_path), "--repeats", "1")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["within_bounds"] is True
    assert figures["rounds_per_second"] > 0
    assert figures["matmul_peak_tflops"] > 0
    if precision == "float32":
        assert figures["metrics_difference"] < 1e-5

    arguments = executor.load_arrays(tmp_path / "arguments-000.npz")
    executor.save_arrays(tmp_path / "arguments-000.npz", arguments | {"first_round": np.array(1, np.int32)})  # other noise
    done = benchmark("run", str(tmp_path), "--repeats", "1")
    assert done.returncode == 1
    assert json.loads(done.stdout)["within_bounds"] is False


def test_a_folder_without_a_bundle(tmp_path: Path) -> None:
    done = benchmark("run", str(tmp_path))
    assert done.returncode == 1
    assert (
        done.stderr == f"accelerator: {tmp_path} has no program.json. Make it with: accelerator.py prepare {tmp_path} CONFIG.\n"
    )


METRICS = np.array([[2.0, 1e-5, 0.1, 0.5, 1.0, 1.0]] * 3, np.float32)
KERNEL = np.array([0.5, -2.0], np.float32)


def compared(metrics: Array = METRICS, kernel: Array = KERNEL) -> dict[str, Any]:
    expected = {"metrics": METRICS, "generator/000/kernel": KERNEL}
    return accelerator.compare(expected, {"metrics": metrics, "generator/000/kernel": kernel}, (1e-4, 1e-3))


def test_differences_are_shares_of_the_largest_value() -> None:
    assert compared()["within_bounds"] is True
    small, large = METRICS.copy(), METRICS.copy()
    small[1, 1] += 1e-6  # a gap near 0 is a difference of large scores: it is measured by 1 % of the largest metric
    large[2, 3] += 1e-3
    assert compared(small)["metrics_difference"] == pytest.approx(5e-5, rel=1e-2)
    assert compared(small)["within_bounds"] is True
    assert compared(large)["metrics_difference"] == pytest.approx(2e-3, rel=1e-2)
    assert compared(large)["within_bounds"] is False
    other = compared(kernel=np.array([0.5, -1.0], np.float32))
    assert (other["variables_difference"], other["largest_difference_in"]) == (0.5, "generator/000/kernel")
    assert other["within_bounds"] is False


def test_what_is_not_finite_does_not_pass() -> None:
    with pytest.raises(PipelineError, match=r"generator/000/kernel is not finite \(first of 1\)"):
        compared(kernel=np.array([0.5, np.nan], np.float32))


def test_without_numbers_of_a_cpu_there_is_no_verdict() -> None:
    assert accelerator.compare({}, {"metrics": METRICS}, (0.0, 0.0))["within_bounds"] is None
