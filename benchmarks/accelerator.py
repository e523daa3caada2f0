"""The program that a TPU would get, run by JAX on this machine's accelerator: the same numbers as a CPU, and how fast.

    python benchmarks/accelerator.py prepare FOLDER CONFIG [--set a.b=c] [--rounds 10] [--images 2048] [--no-reference]
    python benchmarks/accelerator.py run FOLDER [--repeats 5]

`prepare` needs this repository and TensorFlow. It writes a bundle: the StableHLO of one host call for one replica, its
arguments (random images, the indices of the call, and the variables before the first round), and, unless --no-reference, what
TensorFlow computes from them on a CPU. `run` needs this file, the bundle, NumPy, and jax and jaxlib 0.10.2; for an NVIDIA GPU
jax[cuda12]. It prints a table and a JSON line, and ends with exit code 1 if the numbers differ by more than BOUNDS.

The peaks are measured with JAX: a product of two large bfloat16 matrices, and a pass that reads and writes a large array.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

VERSION = "0.10.2"  # of jax and jaxlib: to compile StableHLO is no public function of theirs
# The largest differences of metrics and of variables that pass. Adam divides gradients by their size, so it turns the sign of a
# rounding error into a whole step, and bfloat16 rounds more: then only the metrics have a bound.
BOUNDS, LOOSE_BOUNDS = {("float32", "sgd"): (1e-4, 1e-3)}, (5e-2, math.inf)
PROGRAM, ARGUMENTS, REFERENCE, ABOUT = "program.mlir", "arguments.npz", "reference.npz", "about.json"
MATRIX, COPIED_BYTES = {"cpu": 1024, "gpu": 8192}, {"cpu": 2**26, "gpu": 2**31}


def prepare(folder: Path, config_file: Path, overrides: list[str], rounds: int, images: int, reference: bool) -> None:
    """Write the bundle of a training; `images` random images stand for its dataset."""
    import tensorflow as tf

    from benchmarks.train_throughput import convolution_flops
    from components.tpu_check.lowering import lowered_call
    from components.train import step
    from components.train.config import TrainConfig
    from components.train.data.resident import Resident
    from components.train.devices import host_call
    from components.train.networks import ImageShape
    from components.train.saving.variables import state_arrays
    from pipeline.config import load_config

    section = load_config(config_file, ["train.devices=tpu", "deploy.tpu_topology=v5e:1x1", *overrides]).for_tpu_check()
    every = dict.fromkeys(("rounds_per_call", "log_every_rounds", "checkpoint_every_rounds", "sample_every_rounds"), rounds)
    train = TrainConfig.model_validate(section.train.model_dump() | every | {"rounds": rounds, "data": "resident"})
    precision = "bfloat16" if step.layer_dtype(train) == "mixed_bfloat16" else "float32"
    on_cpu = TrainConfig.model_validate(train.model_dump() | {"devices": "cpu:1", "precision": precision})
    shape = ImageShape(section.image_size, section.channels, section.classes if train.conditional else 0)
    rng, strategy = np.random.default_rng(0), tf.distribute.get_strategy()
    pixels = rng.integers(0, 256, (images, shape.size, shape.size, shape.channels), np.uint8)
    labels = rng.integers(0, section.classes, images).astype(np.int32)
    source = Resident(pixels, labels, seed=train.seed, n_critic=train.n_critic, batch_size=train.global_batch_size)
    taken = source.take(0, rounds)
    state = step.make_state(shape, train, strategy)
    program = lowered_call(section.model_copy(update={"train": train, "images": images}))
    values = {"first_round": np.int32(0), "replica_id": np.int32(0), "pixels": pixels.reshape(images, -1), "labels": labels}
    values |= {"sent/0": taken[0].numpy(), **state_arrays(state)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_text(program.text)
    np.savez(folder / ARGUMENTS, **{name: values[name] for name in program.arguments})
    about = {
        "config": config_file.name,
        "overrides": overrides,
        "precision": precision,
        "optimizer": train.optimizer,
        "rounds": rounds,
        "batch": train.global_batch_size,
        "n_critic": train.n_critic,
        "arguments": program.arguments,
        "results": program.results,
        "convolution_flops_a_round": convolution_flops(shape, on_cpu),  # it does not count in loops, and on a CPU there is none
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1))
    (folder / REFERENCE).unlink(missing_ok=True)
    if reference:
        metrics = host_call.make_call(state, on_cpu, strategy, source)(taken, tf.constant(0)).numpy()
        parts, whole = np.split(metrics, [len(step.PART_METRICS)], axis=-1)
        values = {"part_metrics": parts, "whole_metrics": whole, **state_arrays(state)}
        np.savez(folder / REFERENCE, **{name: values[name] for name in program.results})
    print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB", file=sys.stderr)


def compile_program(text: str, device: Any) -> Any:
    """Return jaxlib's executable of a StableHLO program for one device.

    Its products and convolutions of float32 have the precision HIGHEST, as TensorFlow lowers them, so a GPU does not use TF32.
    """
    from jax._src.interpreters import mlir
    from jaxlib import _jax
    from jaxlib.mlir import ir

    def remove_copies(operation: Any) -> None:  # mhlo.copy of TensorFlow, which other compilers do not accept
        for inner in [inner for region in operation.regions for block in region for inner in block.operations]:
            remove_copies(inner)
            if inner.operation.name == "mhlo.copy":
                inner.operation.results[0].replace_all_uses_with(inner.operation.operands[0])
                inner.operation.erase()

    options = _jax.CompileOptions()
    build = options.executable_build_options
    options.num_replicas = build.num_replicas = 1
    options.num_partitions = build.num_partitions = 1
    build.device_assignment = _jax.DeviceAssignment.create(np.array([[device.id]]))
    with mlir.make_ir_context(), ir.Location.unknown():
        module = ir.Module.parse(text)
        remove_copies(module.operation)
        for name in list(module.operation.attributes):
            if name.startswith("mhlo."):
                del module.operation.attributes[name]
        return device.client.compile_and_load(module, _jax.DeviceList((device,)), options)


def run(folder: Path, repeats: int) -> dict[str, Any]:
    """Run a bundle and return its figures; `within_bounds` is None if it has no reference."""
    import jax

    wrong = [f"{name} {found}" for name in ("jax", "jaxlib") if (found := importlib.metadata.version(name)) != VERSION]
    if wrong:
        raise SystemExit(f"accelerator: this needs jax and jaxlib {VERSION}, not {', '.join(wrong)}.")
    if missing := [name for name in (PROGRAM, ARGUMENTS, ABOUT) if not (folder / name).is_file()]:
        raise SystemExit(f"accelerator: {folder} has no {missing[0]}; make it with: accelerator.py prepare {folder} CONFIG")
    jax.config.update("jax_enable_x64", True)  # Keras counts the updates in int64
    about, device = json.loads((folder / ABOUT).read_text()), jax.devices()[0]
    started = time.perf_counter()
    executable = compile_program((folder / PROGRAM).read_text(), device)
    compile_seconds = time.perf_counter() - started
    print(f"compiled in {compile_seconds:.1f} s", file=sys.stderr)
    with np.load(folder / ARGUMENTS) as file:
        arguments = [jax.device_put(file[name], device) for name in about["arguments"]]

    def call() -> list[Any]:
        results = executable.execute_sharded(arguments).disassemble_into_single_device_arrays()
        return [jax.block_until_ready(replicas[0]) for replicas in results]

    results = dict(zip(about["results"], (np.array(each) for each in call()), strict=True))
    differences = compare(folder / REFERENCE, BOUNDS.get((about["precision"], about["optimizer"]), LOOSE_BOUNDS), results)
    seconds = statistics.median(_seconds(call) for _ in range(repeats)) / about["rounds"]
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    peaks = measured_peaks(device)
    return {
        "benchmark": "accelerator",
        "device": device.device_kind,
        "platform": device.platform,
        **{name: about[name] for name in ("config", "overrides", "precision", "optimizer", "batch", "rounds")},
        "compile_seconds": round(compile_seconds, 1),
        "rounds_per_second": round(1 / seconds, 3),
        "critic_images_per_second": round(about["n_critic"] * about["batch"] / seconds),
        "convolution_tflops": round(about["convolution_flops_a_round"] / seconds / 1e12, 4),
        "share_of_matmul_peak": round(about["convolution_flops_a_round"] / seconds / 1e12 / peaks["matmul_peak_tflops"], 4),
        **{name: round(value, 3) for name, value in peaks.items()},
        "peak_memory_gigabytes": round(memory / 1e9, 3),
        **differences,
    }


def compare(reference: Path, bounds: tuple[float, float], results: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the largest differences of metrics and variables from the CPU's, each as a share of the CPU's largest value."""
    if broken := [name for name, value in results.items() if not np.isfinite(value).all()]:
        raise SystemExit(f"accelerator: {broken[0]} is not finite (first of {len(broken)}).")
    if not reference.is_file():
        return {"metrics_difference": None, "variables_difference": None, "within_bounds": None}
    with np.load(reference) as file:
        expected = {name: file[name] for name in file.files}
    metrics = max(np.max(_of_columns(results[name], expected[name])) for name in ("part_metrics", "whole_metrics"))
    variables = {name: _of_whole(value, expected[name]) for name, value in results.items() if "_metrics" not in name}
    largest = max(variables, key=variables.__getitem__)
    return {
        "metrics_difference": float(f"{metrics:.2e}"),
        "variables_difference": float(f"{variables[largest]:.2e}"),
        "largest_difference_in": largest,
        "bounds": [str(bound) for bound in bounds],
        "within_bounds": bool(metrics <= bounds[0] and variables[largest] <= bounds[1]),
    }


def _of_columns(value: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the largest difference of each metric, as a share of its largest value, or of 1 % of that of all metrics."""
    largest = np.max(np.abs(expected), axis=0)
    return np.max(np.abs(value - expected), axis=0) / np.maximum(largest, 0.01 * np.max(largest))


def _of_whole(value: np.ndarray, expected: np.ndarray) -> float:
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
    figures = run(arguments.folder, arguments.repeats)
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):<34} {value}", file=sys.stderr)
    print(json.dumps(figures))
    return 1 if figures["within_bounds"] is False else 0


if __name__ == "__main__":
    raise SystemExit(main())
