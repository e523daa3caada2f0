"""Makes the bundle of a training (executor.py), and trains in the same way on this machine's CPU with TensorFlow.

    python -m components.tpu_check.reference FOLDER

Both trainings have the same initial weights, images, noise and rounds, all of which follow from the seed. The stage makes them
smaller than the training of the configuration, and one round a call, for parity.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components.tpu_check import lowering
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.executor import Array, save_arrays
from components.train import step
from components.train.config import TrainConfig
from components.train.data.on_device import Gathered, Sent, load_on_device
from components.train.data.resident import Resident
from components.train.devices import host_call
from components.train.devices.strategy import make_strategy
from components.train.networks import ImageShape
from components.train.saving.variables import state_arrays

ROWS, CHANNELS, IMAGES = 2, 8, 256  # of a training that is executed
SIZES = ("data", "global_batch_size", "generator_channels", "critic_channels")


class Images(NamedTuple):
    """Training images uint8 [N, H, W, C] and labels int32 [N]."""

    pixels: Array
    labels: Array


def smaller(config: TpuCheckConfig) -> TpuCheckConfig:
    """Return the training that is executed: ROWS images a replica, at most CHANNELS channels, one round a call.

    Everything else is as configured; the images are resident or sent as at the full size.
    """
    train = config.train.model_copy(
        update={
            "data": "resident" if lowering.argument_specs(config)[0] else "stream",
            "global_batch_size": min(config.train.global_batch_size, ROWS * config.slice.replicas),
            "generator_channels": min(config.train.generator_channels, CHANNELS),
            "critic_channels": min(config.train.critic_channels, CHANNELS),
            "rounds_per_call": 1,
        }
    )
    return config.model_copy(update={"train": train, "images": max(IMAGES, train.global_batch_size)})


def synthetic_images(config: TpuCheckConfig) -> Images:
    """Return `config.images` images of random bytes; the labels go through all classes in turn."""
    size, count = config.image_size, config.images
    pixels = np.random.default_rng(config.train.seed).integers(0, 256, (count, size, size, config.channels), np.uint8)
    return Images(pixels, (np.arange(count) % config.classes).astype(np.int32))


def cpu_config(config: TpuCheckConfig) -> TrainConfig:
    """Return the training for one CPU, in the precision that it has on a TPU."""
    precision = {"float32": "float32", "mixed_bfloat16": "bfloat16"}[step.layer_dtype(config.train)]
    return config.train.model_copy(update={"devices": "cpu:1", "precision": precision})


class Trained(NamedTuple):
    """A training on the CPU: metrics [R, 6], and all variables by name before the first call and after each call."""

    metrics: Array
    states: list[dict[str, Array]]


def data_arguments(config: TpuCheckConfig, images: Images, calls: int, rounds: int) -> list[dict[str, Array]]:
    """Return the arguments of each host call by name, but replica_id and variables. The first call has the resident images."""
    train = cpu_config(config)
    source, resident = _source(train, images), bool(lowering.argument_specs(config)[0])
    on_device = load_on_device(source, make_strategy(train)) if resident else Sent(source.shape)
    arguments = []
    for call in range(calls):
        taken = source.take(call * rounds, rounds)
        if not resident:
            taken = tuple(tf.gather(array, taken[0]) for array in images)
        arguments.append({"first_round": np.array(call * rounds, np.int32)})
        arguments[-1] |= {f"sent/{index}": sent.numpy() for index, sent in enumerate(on_device.arguments(taken))}
    if isinstance(on_device, Gathered):
        arguments[0] |= {"pixels": np.asarray(on_device.pixels), "labels": np.asarray(on_device.labels)}
    return arguments


def train_on_cpu(config: TpuCheckConfig, images: Images, calls: int, rounds: int) -> Trained:
    """Train in host calls of `rounds` rounds from the initial weights."""
    train, classes = cpu_config(config), config.classes if config.train.conditional else 0
    strategy, source = make_strategy(train), _source(train, images)
    state = step.make_state(ImageShape(config.image_size, config.channels, classes), train, strategy)
    call = host_call.make_call(state, train, strategy, source)
    metrics, states = [], [state_arrays(state)]
    for first in range(0, calls * rounds, rounds):
        metrics.append(call(source.take(first, rounds), tf.constant(first)).numpy())
        states.append(state_arrays(state))
    return Trained(np.concatenate(metrics), states)


def write_bundle(config: TpuCheckConfig, folder: Path, images: Images, trained: Trained) -> None:
    """Write the bundle into a folder: the program, and the arguments of each call, which starts with the CPU's variables.

    Raises ProgramRefusedError.
    """
    program = lowering.lowered_call(config)
    lowering.write_program(program, folder)
    calls = len(trained.states) - 1
    for number, arguments in enumerate(data_arguments(config, images, calls, program.rounds)):
        save_arrays(folder / f"arguments-{number:03}.npz", arguments | trained.states[number])


def _source(train: TrainConfig, images: Images) -> Resident:
    settings = {"seed": train.seed, "n_critic": train.n_critic, "batch_size": train.global_batch_size}
    return Resident(images.pixels, images.labels, **settings)


def _work(config: TpuCheckConfig, folder: Path) -> None:
    config = smaller(config)
    images = synthetic_images(config)
    trained = train_on_cpu(config, images, config.execute_rounds, 1)
    write_bundle(config, folder, images, trained)
    (folder / "sizes.json").write_text(json.dumps({name: getattr(config.train, name) for name in SIZES}))
    save_arrays(folder / "expected.npz", {"metrics": trained.metrics})
    for number, state in enumerate(trained.states):
        save_arrays(folder / f"state-{number:03}.npz", state)


if __name__ == "__main__":
    from components.tpu_check.subprocesses import main

    raise SystemExit(main(_work))
