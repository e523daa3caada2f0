"""Errors when TensorFlow finds no TPU, with real resolvers, ports and messages."""

from __future__ import annotations

import socket

import pytest
import tensorflow as tf

from components.common.errors import DeviceError
from components.train.config import TrainConfig
from components.train.devices import strategy, tpu_runtime

MESSAGES = {
    "no TPU under tensorflow-tpu": (
        "Graph execution error:\n\nDetected at node disconnect_tpu_host/_1 defined at (most recent call last):\n"
        "<stack traces unavailable>\nRET_CHECK failure (learning/45eac/google/xla/tpu_node_interfaces.cc:432) *platform \n"
        "\t [[{{node disconnect_tpu_host/_1}}]] [Op:__inference__tpu_init_fn_9]",
        "RET_CHECK failure (learning/45eac/google/xla/tpu_node_interfaces.cc:432) *platform",
    ),
    "libtpu not loaded": (
        "TPUs not found in the cluster. Failed in initialization: No matching devices found for '/device:TPU_SYSTEM:0'",
        "TPUs not found in the cluster. Failed in initialization: No matching devices found for '/device:TPU_SYSTEM:0'",
    ),
    "empty message": ("", "RuntimeError"),
}


@pytest.fixture
def closed_port() -> int:
    """A port without a listener."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the checks of the machine, as if it were a TPU VM; plain TensorFlow then finds no TPU."""
    monkeypatch.setattr(tpu_runtime, "confirm", lambda _: None)


@pytest.mark.parametrize("name", MESSAGES)
def test_reason_is_the_line_that_states_the_problem(name: str) -> None:
    message, line = MESSAGES[name]
    assert strategy._reason(RuntimeError(message)) == line


def test_tensorflow_without_a_tpu(ready: None) -> None:
    with pytest.raises(DeviceError) as caught:
        strategy.make_strategy(TrainConfig(devices="tpu"))
    assert str(caught.value).startswith('train.devices = "tpu", but no TPU responds (')
    assert "ConfigureDistributedTPU" in str(caught.value)
    assert str(caught.value).endswith("Check the TPU with wgan-pipeline tpu-first-hour, or use --set train.devices=cpu:1.")
    assert "\n" not in str(caught.value)


def test_a_worker_that_does_not_listen(ready: None, closed_port: int) -> None:
    devices = f"tpu:grpc://127.0.0.1:{closed_port}"
    with pytest.raises(DeviceError) as caught:
        strategy.make_strategy(TrainConfig(devices=devices))
    assert str(caught.value) == (
        f'train.devices = "{devices}", but its worker 127.0.0.1:{closed_port} does not respond (Connection refused). '
        "Start TensorFlow's server on every host of the slice, or open its port to this machine."
    )


def test_a_worker_that_listens_is_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"grpc://127.0.0.1:{listener.getsockname()[1]}"
        strategy._check_workers("tpu", tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address))


def test_plain_tensorflow_is_refused_before_the_resolver_queries_google() -> None:
    with pytest.raises(DeviceError, match=r"A TPU needs tensorflow-tpu 2\.20\.0; plain tensorflow 2\.20\.0 is installed\."):
        strategy.make_strategy(TrainConfig(devices="tpu:my-slice"))
