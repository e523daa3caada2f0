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

ROOT = Path(__file__).parents[3]
TINY = ["global_batch_size=8", "generator_channels=8", "critic_channels=8", "optimizer=sgd"]


def benchmark(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "benchmarks/accelerator.py", *words]
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

    with np.load(tmp_path / accelerator.ARGUMENTS) as file:
        arguments = {**file, "first_round": np.int32(1)}  # the noise of other rounds
    np.savez(tmp_path / accelerator.ARGUMENTS, **arguments)
    done = benchmark("run", str(tmp_path), "--repeats", "1")
    assert done.returncode == 1
    assert json.loads(done.stdout)["within_bounds"] is False


def test_a_folder_without_a_bundle(tmp_path: Path) -> None:
    done = benchmark("run", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == (
        f"accelerator: {tmp_path} has no program.mlir; make it with: accelerator.py prepare {tmp_path} CONFIG\n"
    )


def compared(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    expected = {
        "part_metrics": np.array([[2.0, 1e-5, 0.1, 0.5]] * 3, np.float32),
        "whole_metrics": np.ones((3, 2), np.float32),
        "generator/000/kernel": np.array([0.5, -2.0], np.float32),
    }
    np.savez(tmp_path / accelerator.REFERENCE, **expected)
    return accelerator.compare(tmp_path / accelerator.REFERENCE, (1e-4, 1e-3), expected | changes)


def test_differences_are_shares_of_the_largest_value(tmp_path: Path) -> None:
    assert compared(tmp_path)["within_bounds"] is True
    metrics = np.array([[2.0, 1e-5, 0.1, 0.5]] * 3, np.float32)
    small, large = metrics.copy(), metrics.copy()
    small[1, 1] += 1e-6  # a gap near 0 is a difference of large scores: it is measured by 1 % of the largest metric
    large[2, 3] += 1e-3
    assert compared(tmp_path, part_metrics=small)["metrics_difference"] == pytest.approx(5e-5, rel=1e-2)
    assert compared(tmp_path, part_metrics=small)["within_bounds"] is True
    assert compared(tmp_path, part_metrics=large)["metrics_difference"] == pytest.approx(2e-3, rel=1e-2)
    assert compared(tmp_path, part_metrics=large)["within_bounds"] is False
    other = compared(tmp_path, **{"generator/000/kernel": np.array([0.5, -1.0], np.float32)})
    assert other["variables_difference"] == 0.5
    assert other["largest_difference_in"] == "generator/000/kernel"
    assert other["within_bounds"] is False


def test_what_is_not_finite_does_not_pass(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"generator/000/kernel is not finite \(first of 1\)"):
        compared(tmp_path, **{"generator/000/kernel": np.array([0.5, np.nan], np.float32)})


def test_without_a_reference_there_is_no_verdict(tmp_path: Path) -> None:
    assert accelerator.compare(tmp_path / "none.npz", (0, 0), {})["within_bounds"] is None
