"""How long a round of training takes on this machine: a short training on random images, in a process of its own.

`python -m pipeline.images.speed` reads a Request on stdin and prints the seconds of a round as the last line of stdout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pydantic import BaseModel

from components.common.errors import DeviceError, PipelineError
from components.train.config import TrainConfig

SECONDS, CALLS, ROUNDS_A_CALL = 8.0, 3, 2  # it takes at least so many seconds, and calls of so many rounds
IMAGES = 512


class Request(BaseModel):
    """What to train: the [train] section, height and width of the images in pixels, channels, and classes (0: none)."""

    train: TrainConfig
    image_size: int
    channels: int
    classes: int


def seconds_a_round(request: Request) -> float:
    """Return the seconds that a round takes here. Raises DeviceError if the training fails."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "pipeline.images.speed"]
    done = subprocess.run(
        command, input=request.model_dump_json(), capture_output=True, text=True, env=environment, check=False
    )
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    if done.returncode or not lines:
        why = lines[-1] if lines else f"exit code {done.returncode}"
        raise DeviceError(f"The speed of training could not be measured: {why}", "Set --set train.rounds=N to skip it.")
    return float(lines[-1])


def measure(request: Request) -> float:
    """Return the seconds of a round, after the calls in which TensorFlow traces and compiles."""
    import numpy as np
    import tensorflow as tf

    from components.train import loop, step
    from components.train.data.resident import Resident
    from components.train.devices import precision
    from components.train.devices.host_call import make_call
    from components.train.devices.strategy import make_strategy
    from components.train.networks import ImageShape

    config = request.train.model_copy(update={"rounds": 10**6, "rounds_per_call": ROUNDS_A_CALL})
    strategy = make_strategy(config)
    tf.config.optimizer.set_experimental_options({"remapping": False})  # as in components/train/run.py
    with tempfile.TemporaryDirectory() as folder:
        config = precision.resolve(config, Path(folder))
    shape = [IMAGES, request.image_size, request.image_size, request.channels]
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    labels = np.arange(IMAGES) % max(request.classes, 1)
    order = {"seed": config.seed, "n_critic": config.n_critic, "batch_size": config.global_batch_size}
    source = Resident(images, labels, classes=request.classes, **order)
    state = step.make_state(ImageShape(request.image_size, request.channels, request.classes), config, strategy)
    call = make_call(state, config, strategy, source)
    loop.run_call(call, config, source, 0)
    started, calls = time.monotonic(), 0
    while calls < CALLS or time.monotonic() - started < SECONDS:
        calls += 1
        loop.run_call(call, config, source, calls * ROUNDS_A_CALL)
    return (time.monotonic() - started) / (calls * ROUNDS_A_CALL)


def main() -> int:
    """Measure what stdin asks for; return the exit code."""
    from components.train.devices.tpu_runtime import prepare

    request = Request.model_validate_json(sys.stdin.read())
    try:
        prepare(request.train.devices)
        print(measure(request))
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
