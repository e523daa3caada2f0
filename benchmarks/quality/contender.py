"""What a contender is, and the clock that all are measured by."""

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
"""Takes the rounds done and the real images drawn so far; returns True when the time is up."""

DRAW_BATCH = 500
JIFFIES_A_SECOND = os.sysconf("SC_CLK_TCK")


class Contender(Protocol):
    """A generator and what trains it, built and not yet traced."""

    settings: dict[str, Any]

    def train(self, after_call: AfterCall) -> None:
        """Train, calling `after_call` each time that a round (or a few) is really done, until it returns True."""

    def draw(self, count: int, seed: int) -> Images:
        """Return `count` images of the generator as it stands, [count, 28, 28, 1]; the latents depend on `seed` alone."""


class Used(NamedTuple):
    """Seconds: of the wall, of this process's cores, and of all cores of the machine."""

    wall: float
    cpu: float
    machine: float

    def plus(self, other: Used, sign: int = 1) -> Used:
        """Return the sum, or with sign -1 the difference."""
        return Used(*(mine + sign * theirs for mine, theirs in zip(self, other, strict=True)))


class Stopwatch:
    """Adds up what was used while it ran; it is paused while a contender draws samples."""

    def __init__(self) -> None:
        self.before = Used(0.0, 0.0, 0.0)
        self.started: Used | None = None

    def start(self) -> None:
        """Run, from now on."""
        self.started = _used()

    def pause(self) -> None:
        """Stand still until the next start."""
        self.before, self.started = self.total(), None

    def total(self) -> Used:
        """Return what was used so far."""
        return self.before if self.started is None else self.before.plus(_used()).plus(self.started, -1)


def _used() -> Used:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Used(time.monotonic(), usage.ru_utime + usage.ru_stime, _machine_busy_seconds())


def _machine_busy_seconds() -> float:
    # user, nice, system, irq, softirq and steal; idle and iowait (3 and 4) are not work, guests are in user already.
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields[:3]) + sum(fields[5:])) / JIFFIES_A_SECOND


def draw_in_batches(generator: Callable[..., Any], latents: int, count: int, seed: int) -> Images:
    """Return images of a Keras model of latents [B, latents] to values in [-1, 1], from latents that depend on `seed` alone."""
    import tensorflow as tf

    drawn = tf.random.stateless_normal([count, latents], [seed, 0], alg="philox")
    parts = [generator(drawn[first : first + DRAW_BATCH], training=False) for first in range(0, count, DRAW_BATCH)]
    pixels = np.round((np.concatenate(parts).astype(np.float32) + 1.0) * 127.5)
    return np.clip(pixels, 0, 255).astype(np.uint8)
