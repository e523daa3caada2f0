"""Where the time of a training round goes, for 28×28 and 64×64 images in float32 and bfloat16; prints a table and JSON lines.

TensorFlow's profiler records when each operation of one host call ran. An operation belongs to a row by its type and by its
name. What XLA compiled (components/train/layers/fused.py) is a row of its own. Shares are of the time of all operations, which
can overlap. "Nothing runs" is the share of the call in which no operation ran: the loop in Python and TensorFlow's executor.

    python benchmarks/round_profile.py [--sizes 28,64] [--precisions float32,bfloat16] [--rounds 10]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from benchmarks.train_throughput import ours
from components.train.config import TrainConfig
from components.train.layers.strided import OF_IMAGES, OF_KERNEL
from components.train.networks import ImageShape
from components.train.step import COMPILED_ROUNDS

LOOP = "ThunkExecutor::Execute"  # the event of a program that XLA compiled for the CPU
CONVOLUTIONS = "convolutions"
IMAGE_GRADIENTS = "gradients of convolutions for images, and up-sampling"
KERNEL_GRADIENTS = "gradients of convolutions for kernels"
ROWS = {  # parts of names, and types, of operations that are not convolutions
    CONVOLUTIONS: ("", ""),
    IMAGE_GRADIENTS: ("", ""),
    KERNEL_GRADIENTS: ("", ""),
    "biases and kernels of convolutions": ("/(conv|to_image|shortcut)_", ""),
    "compiled loops: normalisation, to the image, and others": ("", LOOP),
    "activations of the critic": ("/leaky_", "LeakyRelu.*"),
    "dense layers": ("/(dense|score|flat|base)", ""),
    "optimizer, average and norms": ("/adam|global_norm", "Assign.*|ReadVariableOp"),
    "noise": ("", "Bitwise.*|LeftShift|RightShift|Erfinv|Ndtri"),
    "data": ("", "GatherV2"),
    "other": ("", ""),
}


class Operation(NamedTuple):
    """One execution of an operation, in seconds since some moment."""

    name: str
    type: str
    begin: float
    end: float


def row_of(operation: Operation) -> str:
    """Return the row that an operation belongs to."""
    name, kind = operation.name, operation.type
    if "Conv2D" in kind or OF_IMAGES in name or OF_KERNEL in name:
        if OF_KERNEL in name or "Filter" in kind:
            return KERNEL_GRADIENTS
        return IMAGE_GRADIENTS if OF_IMAGES in name or "Input" in kind else CONVOLUTIONS
    for row, (names, kinds) in ROWS.items():
        if (names and re.search(names, name)) or (kinds and re.match(kinds, kind)):
            return row
    return "other"


def operations_of(trace: Path) -> list[Operation]:
    """Return the operations that ran in the threads of TensorFlow's executor, and compiled loops, from a profiler's trace."""
    space = xplane_pb2.XSpace.FromString(trace.read_bytes())
    found = []
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                title = plane.event_metadata[event.metadata_id].name
                name, _, kind = title.rpartition(":")
                if title == LOOP:
                    name, kind = "", LOOP
                elif not line.name.startswith("tf_Compute") or not name or name.endswith(":"):
                    continue  # "ExecutorState::Process" and others contain operations
                begin = line.timestamp_ns / 1e9 + event.offset_ps / 1e12
                found.append(Operation(name, kind, begin, begin + event.duration_ps / 1e12))
    return found


def covered_seconds(operations: list[Operation]) -> float:
    """Return for how long at least one operation ran."""
    total, until = 0.0, 0.0
    for operation in sorted(operations, key=lambda each: each.begin):
        total += max(0.0, operation.end - max(operation.begin, until))
        until = max(until, operation.end)
    return total


def profile(size: int, precision: str, rounds: int) -> dict[str, Any]:
    """Train two calls, then one under the profiler; return its shares."""
    shape = ImageShape(size, 1)
    config = TrainConfig(
        rounds=max(COMPILED_ROUNDS, rounds * 3),
        log_every_rounds=rounds,
        precision=precision,
        checkpoint_every_rounds=rounds,
        sample_every_rounds=rounds,
    )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (2000, size, size, 1)).astype(np.uint8)
    call = ours(shape, config, images)
    call()  # traces
    unprofiled = call()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            seconds = call()
        operations = operations_of(next(Path(folder).rglob("*.xplane.pb")))
    taken: Counter[str] = Counter()
    for operation in operations:
        taken[row_of(operation)] += operation.end - operation.begin
    total, covered = sum(taken.values()), covered_seconds(operations)
    return {
        "benchmark": "round_profile",
        "image_size": size,
        "precision": precision,
        "seconds_a_round": round(unprofiled / rounds, 3),
        "slower_under_the_profiler": round(seconds / unprofiled, 2),
        "shares": {row: round(taken[row] / total, 3) for row in ROWS},
        "nothing_runs": round(1 - covered / seconds, 3),
        "operations_at_once": round(total / covered, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="28,64")
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    profiles = [
        profile(int(size), precision, arguments.rounds)
        for size in arguments.sizes.split(",")
        for precision in arguments.precisions.split(",")
    ]
    print("| share of the operations' time | " + " | ".join(f"{p['image_size']}, {p['precision']}" for p in profiles) + " |")
    print("|---|" + "--:|" * len(profiles))
    for row in ROWS:
        print(f"| {row} | " + " | ".join(f"{p['shares'][row]:.1%}" for p in profiles) + " |")
    print("| nothing runs (share of the call) | " + " | ".join(f"{p['nothing_runs']:.1%}" for p in profiles) + " |")
    for each in profiles:
        print(json.dumps(each))


if __name__ == "__main__":
    main()
