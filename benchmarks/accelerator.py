"""The program that a TPU would get, run by JAX on this machine's accelerator: the same numbers as a CPU, and how fast.

    python benchmarks/accelerator.py prepare FOLDER CONFIG [--set a.b=c] [--rounds 10] [--images 2048] [--no-reference]
    python benchmarks/accelerator.py run FOLDER [--repeats 5]

`prepare` needs TensorFlow. It writes a bundle (components/tpu_check/executor.py) of one host call for one replica, with random
images, and, unless --no-reference, what TensorFlow computes on a CPU. `run` needs NumPy, and jax and jaxlib 0.10.2; for an
NVIDIA GPU jax[cuda12]. It prints a table and a JSON line. Exit code 1: the numbers differ by more than BOUNDS.

The peaks are measured with JAX: a product of two large bfloat16 matrices, and a pass that reads and writes a large array.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.common.errors import PipelineError
from components.tpu_check import executor
from components.tpu_check.executor import Array

if TYPE_CHECKING:
    from components.tpu_check.reference import Images

# The largest differences of metrics and of variables that pass. Adam divides gradients by their size, so it turns the sign of a
# rounding error into a whole step, and bfloat16 rounds more: then only the metrics have a bound.
BOUNDS, LOOSE_BOUNDS = {("float32", "sgd"): (1e-4, 1e-3)}, (5e-2, math.inf)
EXPECTED, ABOUT = "expected.npz", "about.json"
MATRIX, COPIED_BYTES = {"cpu": 1024, "gpu": 8192}, {"cpu": 2**26, "gpu": 2**31}


def prepare(
    folder: Path, config_file: Path, overrides: list[str], rounds: int, images: int | Images, with_reference: bool
) -> None:
    """Write the bundle of a training on `images`, or on as many random images."""
    import tensorflow as tf

    from benchmarks.train_throughput import convolution_flops
    from components.tpu_check import reference
    from components.train import step
    from components.train.config import TrainConfig
    from components.train.networks import ImageShape
    from components.train.saving.variables import state_arrays
    from pipeline.config import load_config

    section = load_config(config_file, ["train.devices=tpu", "deploy.tpu_topology=v5e:1x1", *overrides]).for_tpu_check()
    every = dict.fromkeys(("rounds_per_call", "log_every_rounds", "checkpoint_every_rounds", "sample_every_rounds"), rounds)
    train = TrainConfig.model_validate(section.train.model_dump() | every | {"rounds": rounds, "data": "resident"})
    count = images if isinstance(images, int) else len(images.pixels)
    config = section.model_copy(update={"train": train, "images": count})
    shape = ImageShape(config.image_size, config.channels, config.classes if train.conditional else 0)
    on_cpu = reference.cpu_config(config)
    data = reference.synthetic_images(config) if isinstance(images, int) else images
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EXPECTED).unlink(missing_ok=True)
    if with_reference:
        trained = reference.train_on_cpu(config, data, 1, rounds)
        executor.save_arrays(folder / EXPECTED, {"metrics": trained.metrics, **trained.states[1]})
    else:
        start = state_arrays(step.make_state(shape, on_cpu, tf.distribute.get_strategy()))
        trained = reference.Trained(np.zeros([0, len(step.METRICS)]), [start, start])
    reference.write_bundle(config, folder, data, trained)
    about = {
        "config": config_file.name,
        "overrides": overrides,
        "precision": on_cpu.precision,
        "optimizer": train.optimizer,
        "batch": train.global_batch_size,
        "rounds": rounds,
        "critic_images_a_round": train.n_critic * train.global_batch_size,
        "convolution_flops_a_round": convolution_flops(shape, on_cpu),  # it does not count in loops, and on a CPU there is none
        "image": [config.image_size, config.channels],
        "train": on_cpu.model_dump(mode="json"),
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1))
    print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB", file=sys.stderr)


def run(folder: Path, repeats: int) -> dict[str, Any]:
    """Run a bundle and return its figures; `within_bounds` is None if it has no numbers of a CPU."""
    about, bundle, devices = opened(folder)
    started = time.perf_counter()
    loaded = executor.load(bundle.text, devices)
    compile_seconds = time.perf_counter() - started
    print(f"compiled in {compile_seconds:.1f} s", file=sys.stderr)
    placed = executor.place(bundle, 0, devices)
    outcome = executor.outcome_of(bundle, executor.run(loaded, placed))
    expected = executor.load_arrays(folder / EXPECTED) if (folder / EXPECTED).is_file() else {}
    bounds = BOUNDS.get((about["precision"], about["optimizer"]), LOOSE_BOUNDS)
    differences = compare(expected, {"metrics": outcome.metrics, **outcome.variables}, bounds)
    seconds = statistics.median(_seconds(lambda: executor.run(loaded, placed)) for _ in range(repeats)) / about["rounds"]
    tflops, peaks = about["convolution_flops_a_round"] / seconds / 1e12, measured_peaks(devices[0])
    return {
        "benchmark": "accelerator",
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        **{name: about[name] for name in ("config", "overrides", "precision", "optimizer", "batch", "rounds")},
        "compile_seconds": round(compile_seconds, 1),
        "rounds_per_second": round(1 / seconds, 3),
        "critic_images_per_second": round(about["critic_images_a_round"] / seconds),
        "convolution_tflops": round(tflops, 4),
        "share_of_matmul_peak": round(tflops / peaks["matmul_peak_tflops"], 4),
        **{name: round(value, 3) for name, value in peaks.items()},
        "needed_gigabytes": round(executor.needed_bytes(loaded, 1) / 1e9, 3),
        **differences,
    }


def opened(folder: Path) -> tuple[dict[str, Any], executor.Bundle, list[Any]]:
    """Return what `prepare` says about a bundle, the bundle, and the device for it. Raises PipelineError if it is not one."""
    if missing := [name for name in ("program.json", "arguments-000.npz", ABOUT) if not (folder / name).is_file()]:
        raise PipelineError(f"{folder} has no {missing[0]}.", f"Make it with: accelerator.py prepare {folder} CONFIG.")
    return json.loads((folder / ABOUT).read_text()), executor.read_bundle(folder), executor.find_devices(1, None)


def compare(expected: Mapping[str, Array], found: Mapping[str, Array], bounds: tuple[float, float]) -> dict[str, Any]:
    """Return the largest differences of metrics [R, 6] and variables from the CPU's, if there are any.

    Raises PipelineError if a value is not finite.
    """
    if broken := [name for name, value in found.items() if not np.isfinite(value).all()]:
        raise PipelineError(f"{broken[0]} is not finite (first of {len(broken)}).")
    if not expected:
        return {"metrics_difference": None, "variables_difference": None, "within_bounds": None}
    metrics = float(np.max(_of_columns(found["metrics"], expected["metrics"])))
    variables = {name: _of_whole(value, expected[name]) for name, value in found.items() if name != "metrics"}
    largest = max(variables, key=variables.__getitem__)
    return {
        "metrics_difference": float(f"{metrics:.2e}"),
        "variables_difference": float(f"{variables[largest]:.2e}"),
        "largest_difference_in": largest,
        "bounds": [str(bound) for bound in bounds],
        "within_bounds": bool(metrics <= bounds[0] and variables[largest] <= bounds[1]),
    }


def _of_columns(value: Array, expected: Array) -> Array:
    """Return the largest difference of each metric, as a share of its largest value, or of 1 % of that of all metrics."""
    largest = np.max(np.abs(expected), axis=0)
    return np.max(np.abs(value - expected), axis=0) / np.maximum(largest, 0.01 * np.max(largest))


def _of_whole(value: Array, expected: Array) -> float:
    """Return the largest difference of a variable as a share of its largest value."""
    return float(np.max(np.abs(value.astype(np.float64) - expected)) / max(1e-6, float(np.max(np.abs(expected)))))


def measured_peaks(device: Any, repeats: int = 10) -> dict[str, float]:
    """Return TFLOP/s of a product of two bfloat16 matrices, and GB/s of a pass over an array; the best of `repeats`."""
    import jax
    import jax.numpy as jnp

    kind = "cpu" if device.platform == "cpu" else "gpu"
    size, elements = MATRIX[kind], COPIED_BYTES[kind] // 4
    matrix = jax.device_put(np.ones((size, size), jnp.bfloat16), device)
    array = jax.device_put(np.zeros(elements, np.int32), device)

    def fastest(function: Callable[[Any], Any], argument: Any) -> float:
        return min(_seconds(lambda: jax.block_until_ready(function(argument))) for _ in range(repeats))

    return {
        "matmul_peak_tflops": 2 * size**3 / fastest(jax.jit(lambda left: left @ left), matrix) / 1e12,
        "memory_peak_gigabytes_per_second": 8 * elements / fastest(jax.jit(lambda whole: whole + np.int32(1)), array) / 1e9,
    }


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("prepare")
    one.add_argument("folder", type=Path)
    one.add_argument("config", type=Path)
    one.add_argument("--set", action="append", default=[], dest="overrides")
    one.add_argument("--rounds", type=int, default=10, help="rounds of the host call")
    one.add_argument("--images", type=int, default=2048, help="random images that stand for the dataset")
    one.add_argument("--no-reference", action="store_true", help="do not train on this CPU: for a batch that would take hours")
    other = commands.add_parser("run")
    other.add_argument("folder", type=Path)
    other.add_argument("--repeats", type=int, default=5, help="timed host calls; the median counts")
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        prepare(
            arguments.folder, arguments.config, arguments.overrides, arguments.rounds, arguments.images,
            not arguments.no_reference,
        )  # fmt: skip
        return 0
    try:
        figures = run(arguments.folder, arguments.repeats)
    except PipelineError as error:
        print(f"accelerator: {error}", file=sys.stderr)
        return error.exit_code
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):<34} {value}", file=sys.stderr)
    print(json.dumps(figures))
    return 1 if figures["within_bounds"] is False else 0


if __name__ == "__main__":
    raise SystemExit(main())
