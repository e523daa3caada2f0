"""The interface of a contender, and the stopwatch that measures all of them."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
AfterCall = Callable[[int, int], bool]
"""Called with the finished rounds and the real images used so far; returns True to stop the training."""

DRAW_BATCH = 500
JIFFIES_A_SECOND = os.sysconf("SC_CLK_TCK")


class Contender(Protocol):
    """A generator and its training, built but not yet traced."""

    settings: dict[str, Any]

    def train(self, after_call: AfterCall) -> None:
        """Train to the end, or until `after_call`, which is called each time one or more rounds are finished, returns True."""

    def draw(self, count: int, seed: int) -> Images:
        """Return images of the current generator, [count, H, W, C]; the latents depend only on `seed`."""


class UsedSeconds(NamedTuple):
    """Seconds of wall-clock time, of CPU time of this process, and of CPU time of the whole machine."""

    wall: float
    cpu: float
    machine: float

    def plus(self, other: UsedSeconds, sign: int = 1) -> UsedSeconds:
        """Return the sum, or the difference if `sign` is -1."""
        return UsedSeconds(*(mine + sign * theirs for mine, theirs in zip(self, other, strict=True)))


class Stopwatch:
    """Adds up the time used while it runs; it is paused while a contender draws samples."""

    def __init__(self) -> None:
        self.before = UsedSeconds(0.0, 0.0, 0.0)
        self.started: UsedSeconds | None = None

    def start(self) -> None:
        """Start or resume."""
        self.started = _used()

    def pause(self) -> None:
        """Pause until the next `start`."""
        self.before, self.started = self.total(), None

    def total(self) -> UsedSeconds:
        """Return the time used so far."""
        return self.before if self.started is None else self.before.plus(_used()).plus(self.started, -1)


def _used() -> UsedSeconds:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return UsedSeconds(time.monotonic(), usage.ru_utime + usage.ru_stime, _machine_busy_seconds())


def _machine_busy_seconds() -> float:
    # user, nice, system, irq, softirq and steal. idle and iowait (3 and 4) are not work; guest time is part of user.
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields[:3]) + sum(fields[5:])) / JIFFIES_A_SECOND


def draw_in_batches(generator: Callable[..., Any], latents: int, count: int, seed: int) -> Images:
    """Return images of a Keras model (latents [B, L] to [-1, 1]) for latents that depend only on `seed`."""
    import tensorflow as tf

    drawn = tf.random.stateless_normal([count, latents], [seed, 0], alg="philox")
    parts = [generator(drawn[first : first + DRAW_BATCH], training=False) for first in range(0, count, DRAW_BATCH)]
    pixels = np.round((np.concatenate(parts).astype(np.float32) + 1.0) * 127.5)
    return np.clip(pixels, 0, 255).astype(np.uint8)
