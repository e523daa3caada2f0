"""A whole training by JAX on this machine's accelerator: the program that a TPU would get, on the images of a dataset.

    python benchmarks/accelerator_training.py prepare FOLDER CONFIG DATASET --rounds 60000 [--rounds-per-call 20] [--set a.b=c]
    python benchmarks/accelerator_training.py train FOLDER OUT --save 900,4500,18000 [--seconds 300]
    python benchmarks/accelerator_training.py export FOLDER OUT DATASET VALIDATION MODELS

`prepare` and `export` need TensorFlow, `train` needs what `accelerator.py run` needs. `prepare` writes the bundle of one host
call for one replica, with the dataset's training images, and the order of the images in all rounds. `train` runs call after
call: each starts with the variables that the one before returned, which stay on the device. It compares the first call with
TensorFlow's on a CPU, and writes the moving average of the generator after the rounds of --save as OUT/ROUNDS.npz. `export`
writes each as a model artifact, MODELS/ROUNDS.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import accelerator
from components.common.errors import PipelineError
from components.tpu_check import executor

ORDER, METRICS, SPEED = "order.npy", "metrics.npy", "speed.json"
AVERAGE = "ema_generator/"
# Of the first call, for metrics. Devices round differently, and with the rates of configs/ Adam makes a difference of 1e-7 up
# to ten times as large every round: after 20 rounds XLA's CPU and TensorFlow's differ by 1 to 60 %, and so do a GPU and a CPU.
COMPARED_ROUNDS = 3


def prepare(folder: Path, config_file: Path, overrides: list[str], dataset: Path, rounds_per_call: int, rounds: int) -> None:
    """Write the bundle of a training of `rounds` rounds on `dataset`, what a CPU makes of its first call, and its order."""
    from components.tpu_check.reference import Images
    from components.train.data.batches import Order
    from components.train.data.source import open_source

    source = open_source(dataset, seed=0, n_critic=1, batch_size=1, mode="resident")
    images = Images(*(tensor.numpy() for tensor in source.tensors))  # type: ignore[attr-defined]
    accelerator.prepare(folder, config_file, overrides, rounds_per_call, images, with_reference=True)
    train = json.loads((folder / accelerator.ABOUT).read_text())["train"]
    order = Order(train["seed"], source.count, train["n_critic"], train["global_batch_size"])
    indices = order.indices(0, -(-rounds // rounds_per_call) * rounds_per_call)
    np.save(folder / ORDER, indices.astype(np.min_scalar_type(source.count)))


def train(folder: Path, out: Path, saved: list[int], seconds: float, compiled: Any = None) -> dict[str, Any]:
    """Train until the last round of `saved`, or until `seconds` have passed, and return the figures of the training.

    Writes the moving average after each of `saved` and after the last round, METRICS [rounds, 6] and SPEED into `out`.
    `compiled` is the bundle's program, if it is loaded already. Raises PipelineError if something is not finite.
    """
    about, bundle, devices = accelerator.opened(folder)
    order = np.load(folder / ORDER, mmap_mode="r")
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    compiled = compiled or executor.load(bundle.text, devices)
    compile_seconds = time.perf_counter() - started
    state = dict(zip(bundle.arguments, executor.place(bundle, 0, devices), strict=True))
    done, metrics, agreement, call_seconds = 0, [], {}, []
    save(out, 0, bundle.calls[0])
    started = time.perf_counter()
    while done < saved[-1] and time.perf_counter() - started < seconds:
        before = time.perf_counter()
        state |= _placed(devices[0], done, order[done : done + about["rounds"]])
        results = executor.run(compiled, [state[name] for name in bundle.arguments])
        parts, whole, *variables = (replicas[0] for replicas in results)
        state |= zip(bundle.results[2:], variables, strict=True)
        metrics.append(np.concatenate([np.asarray(parts), np.asarray(whole)], axis=1))
        call_seconds.append(time.perf_counter() - before)
        if not done:
            agreement = _agreement(folder, about, executor.outcome_of(bundle, results))
        before, done = done, done + about["rounds"]
        if any(before < rounds <= done for rounds in saved):
            save(out, done, state)
    save(out, done, state)
    np.save(out / METRICS, np.concatenate(metrics))
    figures = {
        "device": devices[0].device_kind,
        "rounds": done,
        "compile_seconds": round(compile_seconds, 1),
        "seconds": round(time.perf_counter() - started, 1),
        "rounds_per_second": round(about["rounds"] / float(np.median(call_seconds)), 2),
        **agreement,
    }
    (out / SPEED).write_text(json.dumps(figures, indent=1))
    return figures


def save(out: Path, rounds: int, state: Any) -> None:
    """Write the moving average of the generator. Raises PipelineError if it is not finite."""
    average = {name: np.asarray(array) for name, array in state.items() if name.startswith(AVERAGE)}
    if not all(np.isfinite(array).all() for array in average.values()):
        raise PipelineError(f"The training diverged before round {rounds}.", "Use smaller learning rates.")
    executor.save_arrays(out / f"{rounds}.npz", average)


def export(folder: Path, out: Path, dataset: Path, validation: Path, models: Path) -> None:
    """Write a model artifact, as the train step does, for each moving average in `out`. It has no state to start from."""
    from components.common.artifacts import new_artifact
    from components.generator.generator import SAVED_MODEL
    from components.train.config import TrainConfig
    from components.train.networks import ImageShape
    from components.train.progress import images_seen
    from components.train.saving.export import Generator

    about = json.loads((folder / accelerator.ABOUT).read_text())
    (size, channels), train = about["image"], TrainConfig.model_validate(about["train"])
    generator = Generator(ImageShape(size, channels, 0), train)
    for file in sorted(out.glob("*.npz"), key=lambda file: int(file.stem)):
        rounds, average = int(file.stem), executor.load_arrays(file)
        generator.set_weights([average[name] for name in sorted(average)])
        inputs = {"dataset": dataset, "validation": validation}
        with new_artifact(models / file.stem, "model", config=train, inputs=inputs) as writer:
            generator.save(writer.path / SAVED_MODEL)
            writer.counts = {"rounds": rounds, "images_seen": images_seen(train, rounds)}
            shape = {"image_size": size, "channels": channels, "latents": train.latents, "classes": 0}
            writer.details = shape | {"exported_round": rounds, "started_from": ""}


def _placed(device: Any, first_round: int, indices: Any) -> dict[str, Any]:
    import jax

    arguments = {"first_round": np.array(first_round, np.int32), "sent/0": np.asarray(indices, np.int32)}
    return {name: jax.device_put(array, device) for name, array in arguments.items()}


def _agreement(folder: Path, about: dict[str, Any], outcome: executor.Outcome) -> dict[str, Any]:
    bounds = accelerator.BOUNDS.get((about["precision"], about["optimizer"]), accelerator.LOOSE_BOUNDS)
    expected = executor.load_arrays(folder / accelerator.EXPECTED)
    expected["metrics"] = expected["metrics"][:COMPARED_ROUNDS]
    return accelerator.compare(expected, {"metrics": outcome.metrics[:COMPARED_ROUNDS], **outcome.variables}, bounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one, two, three = (commands.add_parser(name) for name in ("prepare", "train", "export"))
    for command, names in ((one, ("config", "dataset")), (two, ("out",)), (three, ("out", "dataset", "validation", "models"))):
        for name in ("folder", *names):
            command.add_argument(name, type=Path)
    one.add_argument("--set", action="append", default=[], dest="overrides")
    one.add_argument("--rounds", type=int, required=True, help="rounds for which the order of the images is written")
    one.add_argument("--rounds-per-call", type=int, default=20)
    two.add_argument("--save", required=True, help="rounds, in ascending order, after which the model is written")
    two.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    given = parser.parse_args()
    try:
        if given.command == "prepare":
            prepare(given.folder, given.config, given.overrides, given.dataset, given.rounds_per_call, given.rounds)
        elif given.command == "export":
            export(given.folder, given.out, given.dataset, given.validation, given.models)
        else:
            figures = train(given.folder, given.out, [int(rounds) for rounds in given.save.split(",")], given.seconds)
            print(json.dumps(figures))
            return 1 if figures["within_bounds"] is False else 0
    except PipelineError as error:
        print(f"accelerator_training: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
