"""Times a training on random images, in a process of its own: TensorFlow looks for a TPU as soon as it is imported.

`python -m components.train.speed TRAIN_JSON SIZE CHANNELS IMAGES SECONDS ROUNDS_A_CALL` prints a Speed as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from components.common.errors import PipelineError
from components.train.config import TrainConfig

CALLS, CLASSES = 3, 10  # so many calls at least


class Speed(NamedTuple):
    """`rounds` took `seconds` after the first call, in which TensorFlow traces and compiles."""

    rounds: int
    seconds: float
    precision: str
    replicas: int
    first_call_seconds: float

    @property
    def rounds_per_second(self) -> float:
        """The speed."""
        return self.rounds / self.seconds


def command(train: TrainConfig, size: int, channels: int, images: int, seconds: float, rounds_a_call: int) -> list[str]:
    """Return the command that times this training on so many images [size, size, channels] for at least these seconds."""
    numbers = (size, channels, images, seconds, rounds_a_call)
    return [sys.executable, "-m", "components.train.speed", train.model_dump_json(), *map(str, numbers)]


def read_speed(printed: str) -> Speed:
    """Return what the command has printed, on its last line."""
    return Speed(*json.loads(printed.strip().splitlines()[-1]))


def measure(config: TrainConfig, size: int, channels: int, images: int, seconds: float) -> Speed:
    """Train on random images, whose labels go through CLASSES in turn."""
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
    tf.config.optimizer.set_experimental_options({"remapping": False})  # as in run.py
    with tempfile.TemporaryDirectory() as folder:
        config = precision.resolve(config, Folder(Path(folder)))
    pixels = np.random.default_rng(0).integers(0, 256, [images, size, size, channels], np.uint8)
    order = {"seed": config.seed, "n_critic": config.n_critic, "batch_size": config.global_batch_size}
    source = Resident(pixels, np.arange(images) % CLASSES, classes=CLASSES, **order)
    state = step.make_state(ImageShape(size, channels, CLASSES if config.conditional else 0), config, strategy)
    call = make_call(state, config, strategy, source)
    first = loop.run_call(call, config, source, 0)
    started, done, calls = time.monotonic(), first.round, 0
    while calls < CALLS or time.monotonic() - started < seconds:
        done, calls = loop.run_call(call, config, source, done).round, calls + 1
    elapsed = time.monotonic() - started
    return Speed(done - first.round, elapsed, config.precision, int(strategy.num_replicas_in_sync), first.seconds)


def main(train: str, size: str, channels: str, images: str, seconds: str, rounds_a_call: str) -> int:
    """Print the speed as JSON; return the exit code."""
    from components.train.devices.tpu_runtime import prepare

    endless = {"rounds": 10**6, "rounds_per_call": int(rounds_a_call)}
    config = TrainConfig.model_validate_json(train).model_copy(update=endless)
    try:
        prepare(config.devices)
        print(json.dumps(measure(config, int(size), int(channels), int(images), float(seconds))))
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
