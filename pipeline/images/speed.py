"""How long a round of training takes on this machine: a short training on random images, in a process of its own."""

from __future__ import annotations

import os
import subprocess
from typing import NamedTuple

from components.common.errors import DeviceError
from components.train import speed
from components.train.config import TrainConfig

SECONDS, ROUNDS_A_CALL, IMAGES = 8.0, 2, 512


class Speed(NamedTuple):
    """The seconds that a round takes, and the precision in which it computes."""

    seconds: float
    precision: str


def measure_speed(train: TrainConfig, image_size: int, channels: int) -> Speed:
    """Return the speed of training here with images of this size. Raises DeviceError if the training fails."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = speed.command(train, image_size, channels, IMAGES, SECONDS, ROUNDS_A_CALL)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise DeviceError(f"The speed of training cannot be measured: {last}", "Use --set train.rounds=N without it.")
    found = speed.read_speed(done.stdout)
    return Speed(found.seconds / found.rounds, found.precision)
