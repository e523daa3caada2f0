"""The loop that a TPU runs, on the CPU: it gives the same numbers and weights as rounds that the host runs one by one."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from components.train import step
from components.train.data.on_device import OnDevice, Sent, load_on_device
from components.train.data.resident import Resident
from components.train.devices import host_call
from components.train.saving import variables
from tests.parity.training import IMAGES, LABELS, config_for, shape_for, smooth_state

STRATEGY = tf.distribute.get_strategy()
ROUNDS = 6


class Streaming(Resident):
    """A source in memory that returns images, as Streamed does."""

    def take(self, first_round: int, rounds: int) -> tuple[tf.Tensor, ...]:
        (numbers,) = super().take(first_round, rounds)
        return tf.gather(self._images, numbers), tf.gather(self._labels, numbers)


@pytest.mark.parametrize(("kind", "conditional"), [("resident", False), ("streamed", True)])
def test_the_loop_on_the_device_equals_the_loop_on_the_host(kind: str, conditional: bool) -> None:
    config = config_for(1, n_critic=3, conditional=conditional)
    settings = {"seed": config.seed, "n_critic": config.n_critic, "batch_size": config.global_batch_size}
    source = Resident(IMAGES, LABELS, **settings)
    state = smooth_state(config, STRATEGY)
    start = variables.state_arrays(state)
    first = tf.constant(0)
    expected = host_call.make_call(state, config, STRATEGY, source)(source.take(0, ROUNDS), first).numpy()
    weights = variables.state_arrays(state)
    variables.load_arrays(state, start)
    there = config.model_copy(update={"devices": "tpu", "precision": "float32"})
    taken, on_device = _taken(kind, source, settings)
    found = host_call.make_device_call(state, there, STRATEGY, on_device)(taken, first).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    for name, array in variables.state_arrays(state).items():
        np.testing.assert_allclose(array, weights[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert any(np.abs(weights[name] - start[name]).max() > 1e-3 for name in weights), "the weights changed"


def _taken(kind: str, source: Resident, settings: dict[str, int]) -> tuple[tuple[tf.Tensor, ...], OnDevice]:
    if kind == "resident":
        return source.take(0, ROUNDS), load_on_device(source, STRATEGY)
    return Streaming(IMAGES, LABELS, **settings).take(0, ROUNDS), Sent(source.shape)


def test_a_resident_source_lies_on_the_device_as_rows() -> None:
    on_device = load_on_device(Resident(IMAGES, LABELS, seed=0, n_critic=1, batch_size=16), STRATEGY)
    assert tuple(on_device.pixels.shape) == (100, 64)
    assert on_device.pixels.dtype == tf.uint8
    assert step.METRICS == step.PART_METRICS + step.WHOLE_METRICS, "make_device_call concatenates them in this order"
    assert shape_for(config_for(1)).size == 8
