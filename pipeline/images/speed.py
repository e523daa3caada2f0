"""How long a round of training takes on this machine: a short training on random images, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from components.common.errors import DeviceError, PipelineError
from components.train.config import TrainConfig

SECONDS, CALLS, ROUNDS_A_CALL = 8.0, 3, 2  # it takes at least so many seconds, and calls of so many rounds
IMAGES, CLASSES = 512, 10


class Speed(NamedTuple):
    """The seconds that a round takes, and the precision in which it computes."""

    seconds: float
    precision: str


def measure_speed(train: TrainConfig, image_size: int, channels: int) -> Speed:
    """Return the speed of training here with images of this size. Raises DeviceError if the training fails."""
    command = [sys.executable, "-m", "pipeline.images.speed", train.model_dump_json(), str(image_size), str(channels)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
    if done.returncode:
        raise DeviceError(f"The speed of training cannot be measured: {lines[-1]}", "Use --set train.rounds=N without it.")
    return Speed(*json.loads(lines[-1]))


def main(train: str, image_size: str, channels: str) -> int:
    """Print the speed as JSON; return the exit code. TensorFlow looks for a TPU as soon as it is imported."""
    from components.train.devices.tpu_runtime import prepare

    config = TrainConfig.model_validate_json(train)
    try:
        prepare(config.devices)
        print(json.dumps(_speed(config, int(image_size), int(channels))))
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _speed(config: TrainConfig, image_size: int, channels: int) -> Speed:
    """Return the speed after the first call, in which TensorFlow traces the graph."""
    import numpy as np
    import tensorflow as tf

    from components.common.store import Folder
    from components.train import loop, step
    from components.train.data.resident import Resident
    from components.train.devices import precision
    from components.train.devices.host_call import make_call
    from components.train.devices.strategy import make_strategy
    from components.train.networks import ImageShape

    strategy = make_strategy(config)
    tf.config.optimizer.set_experimental_options({"remapping": False})  # as in components/train/run.py
    with tempfile.TemporaryDirectory() as folder:
        config = precision.resolve(config, Folder(Path(folder)))
    config = config.model_copy(update={"rounds": 10**6, "rounds_per_call": ROUNDS_A_CALL})
    images = np.random.default_rng(0).integers(0, 256, [IMAGES, image_size, image_size, channels], np.uint8)
    order = {"seed": config.seed, "n_critic": config.n_critic, "batch_size": config.global_batch_size}
    source = Resident(images, np.arange(IMAGES) % CLASSES, classes=CLASSES, **order)
    shape = ImageShape(image_size, channels, CLASSES if config.conditional else 0)
    call = make_call(step.make_state(shape, config, strategy), config, strategy, source)
    loop.run_call(call, config, source, 0)
    started, calls = time.monotonic(), 0
    while calls < CALLS or time.monotonic() - started < SECONDS:
        calls += 1
        loop.run_call(call, config, source, calls * ROUNDS_A_CALL)
    return Speed((time.monotonic() - started) / (calls * ROUNDS_A_CALL), config.precision)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
