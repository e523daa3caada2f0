"""A real TPUStrategy on a machine without a TPU: its chips are virtual CPUs.

It creates variables, assigns to them, reads and reduces them, and traces the program of `run`: all of that is TensorFlow's own
code. What is missing is the kernels of a few operations. With one replica those are trivial, so the program can also run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.tpu.ops import tpu_ops
from tensorflow.python.tpu.tpu_system_metadata import TPUSystemMetadata

DEVICE = "/job:localhost/replica:0/task:0/device"


class Chip(NamedTuple):
    """What TPUStrategy reads of a device."""

    name: str


class Resolver(tf.distribute.cluster_resolver.TPUClusterResolver):
    """A resolver whose TPU has `replicas` cores."""

    def __init__(self, replicas: int = 1, tpu: str = "local") -> None:
        super().__init__(tpu=tpu)
        self.replicas = replicas

    def get_tpu_system_metadata(self) -> TPUSystemMetadata:
        chips = [Chip(f"{DEVICE}:TPU:{index}") for index in range(self.replicas)]
        return TPUSystemMetadata(self.replicas, 1, self.replicas, None, chips)


def tpu_strategy(replicas: int) -> tf.distribute.TPUStrategy:
    """Return a TPUStrategy whose chips are the first virtual CPUs of this process."""
    strategy = tf.distribute.TPUStrategy(Resolver(replicas))
    strategy.extended._tpu_devices = np.array([[f"{DEVICE}:CPU:{index}"] for index in range(replicas)], dtype=object)
    return strategy


@contextmanager
def one_replica_runs() -> Iterator[None]:
    """Replace the operations whose kernels only a TPU has by what they do with one replica."""
    stand_ins: dict[str, Any] = {
        "tpu_replicated_input": lambda inputs, **_: tf.identity(inputs[0]),
        "tpu_replicated_output": lambda value, replicas, **_: [tf.identity(value)] * replicas,
        "tpu_replicate_metadata": lambda **_: tf.no_op(),
        "tpu_compilation_result": lambda: tf.constant(""),
        "cross_replica_sum": tf.identity,
        "all_to_all": lambda value, **_: tf.stack(value),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, stand_in in stand_ins.items():
            patch.setattr(tpu_ops, name, stand_in)
        yield
