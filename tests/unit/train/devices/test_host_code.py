"""Host operations are found anywhere in the traced graph of a training step, and named."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.common.errors import DeviceError
from components.train import loop, step
from components.train.config import TrainConfig
from components.train.data.resident import Resident
from components.train.devices import host_call
from components.train.devices.host_code import host_operations, without_host_code
from components.train.devices.strategy import make_strategy
from components.train.saving.signals import long_call_text
from tests.parity.training import IMAGES, LABELS, config_for, shape_for

Hook = Callable[[tf.Tensor], Any]


def traced(config: TrainConfig) -> tuple[loop.Call, tuple[Any, ...]]:
    """Return the function of a host call, and arguments for it."""
    strategy = make_strategy(config)
    state = step.make_state(shape_for(config), config, strategy)
    source = Resident(IMAGES, LABELS, seed=0, n_critic=config.n_critic, batch_size=config.global_batch_size)
    return host_call.make_call(state, config, strategy, source), (source.take(0, 2), tf.constant(0))


def add_to_step(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `hook` with a metric inside the step, like a forgotten debugging line."""
    real = step.generator_step

    def with_hook(*args: Any) -> tuple[tf.Tensor, tf.Tensor]:
        loss, norm = real(*args)
        hook(loss)
        return loss, norm

    monkeypatch.setattr(step, "generator_step", with_hook)


def eager_python(loss: tf.Tensor) -> None:
    tf.py_function(lambda value: np.float32(value), [loss], tf.float32)


def numpy_function(loss: tf.Tensor) -> None:
    tf.numpy_function(lambda value: value, [loss], tf.float32, stateful=True)


def print_in_a_branch(loss: tf.Tensor) -> None:
    tf.cond(loss > 0, lambda: tf.print("high", loss), lambda: tf.no_op())


def file_in_a_nested_function(loss: tf.Tensor) -> None:
    @tf.function
    def inner(value: tf.Tensor) -> tf.Tensor:
        tf.io.write_file("loss.txt", tf.strings.as_string(value))
        return value

    @tf.function
    def outer(value: tf.Tensor) -> tf.Tensor:
        return inner(value)

    outer(loss)


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_training_step_has_no_host_operations(replicas: int) -> None:
    call, arguments = traced(config_for(replicas))
    assert host_operations(call.get_concrete_function(*arguments).graph) == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    ("hook", "operation"),
    [
        (eager_python, "EagerPyFunc"),
        (numpy_function, "PyFunc"),
        (print_in_a_branch, "PrintV2"),
        (file_in_a_nested_function, "WriteFile"),
    ],
)
def test_host_operations_are_named_before_the_first_round(
    hook: Hook, operation: str, replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_to_step(hook, monkeypatch)
    call, arguments = traced(config_for(replicas))
    ran: list[int] = []

    class Counted:
        get_concrete_function = staticmethod(call.get_concrete_function)  # type: ignore[attr-defined]

        def __call__(self, *args: Any) -> tf.Tensor:
            ran.append(1)
            return call(*args)

    with pytest.raises(DeviceError) as caught:
        without_host_code(Counted())(*arguments)
    assert re.match(
        rf"The training step has (an operation|\d operations) that a TPU cannot run: .*\b{operation} \S+", str(caught.value)
    )
    assert "\n" not in str(caught.value)
    assert caught.value.cure.startswith("Take Python functions, prints, files and summaries out of the step")
    assert not ran


def test_the_check_does_not_change_the_result() -> None:
    call, arguments = traced(config_for(1))
    again, _ = traced(config_for(1))
    checked = without_host_code(again)
    for _ in range(2):
        np.testing.assert_array_equal(checked(*arguments).numpy(), call(*arguments).numpy())


def test_three_of_many_operations_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    add_to_step(lambda loss: [eager_python(loss) for _ in range(5)], monkeypatch)
    call, arguments = traced(config_for(1))
    with pytest.raises(
        DeviceError, match=r"has 5 operations that a TPU cannot run: (EagerPyFunc \S+, ){2}EagerPyFunc \S+ and 2 more\."
    ):
        without_host_code(call)(*arguments)


@pytest.mark.parametrize(("seconds", "warned"), [(15.0, False), (16.0, True)])
def test_warning_about_long_host_calls(seconds: float, warned: bool) -> None:
    text = long_call_text(seconds)
    assert bool(text) == warned
    if warned:
        assert text == (
            "A host call takes 16 s, but a preempted machine stops after 30 s: lower train.rounds_per_call so that a checkpoint"
            " can be saved in time"
        )
