"""What is said when TensorFlow itself finds no TPU: real resolvers, real ports, real messages."""

from __future__ import annotations

import socket
import time

import pytest
import tensorflow as tf

from components.common.errors import DeviceError
from components.train.config import TrainConfig
from components.train.devices import strategy, tpu_runtime

SEEN = {
    "no TPU under tensorflow-tpu": (
        "Graph execution error:\n\nDetected at node disconnect_tpu_host/_1 defined at (most recent call last):\n"
        "<stack traces unavailable>\nRET_CHECK failure (learning/45eac/google/xla/tpu_node_interfaces.cc:432) *platform \n"
        "\t [[{{node disconnect_tpu_host/_1}}]] [Op:__inference__tpu_init_fn_9]",
        "RET_CHECK failure (learning/45eac/google/xla/tpu_node_interfaces.cc:432) *platform",
    ),
    "libtpu kept away": (
        "TPUs not found in the cluster. Failed in initialization: No matching devices found for '/device:TPU_SYSTEM:0'",
        "TPUs not found in the cluster. Failed in initialization: No matching devices found for '/device:TPU_SYSTEM:0'",
    ),
    "nothing at all": ("", "RuntimeError"),
}


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process as `prepare` leaves it on a TPU VM; below it is plain TensorFlow, which has no TPU."""
    monkeypatch.setattr(tpu_runtime, "confirm", lambda _: None)


@pytest.mark.parametrize("name", SEEN)
def test_the_line_that_says_what_is_wrong(name: str) -> None:
    message, line = SEEN[name]
    assert strategy._reason(RuntimeError(message)) == line


def test_tensorflow_without_a_tpu(ready: None) -> None:
    with pytest.raises(DeviceError) as caught:
        strategy.make_strategy(TrainConfig(devices="tpu"))
    assert str(caught.value).startswith('train.devices = "tpu", but no TPU answers (')
    assert "ConfigureDistributedTPU" in str(caught.value)
    assert str(caught.value).endswith("Look at the TPU with the commands of docs/tpu.md, or use --set train.devices=cpu:1.")
    assert "\n" not in str(caught.value)


def test_a_worker_that_does_not_listen(ready: None, closed_port: int) -> None:
    devices = f"tpu:grpc://127.0.0.1:{closed_port}"
    started = time.monotonic()
    with pytest.raises(DeviceError) as caught:
        strategy.make_strategy(TrainConfig(devices=devices))
    assert time.monotonic() - started < strategy.ANSWER_SECONDS
    assert str(caught.value) == (
        f'train.devices = "{devices}", but its worker 127.0.0.1:{closed_port} does not answer (Connection refused). '
        "Start TensorFlow's server on every host of the slice, or open its port to this machine."
    )


def test_a_worker_that_listens_is_let_through() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"grpc://127.0.0.1:{listener.getsockname()[1]}"
        strategy._check_answers("tpu", tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address))


def test_plain_tensorflow_is_refused_before_the_resolver_asks_google() -> None:
    with pytest.raises(DeviceError, match=r"A TPU needs tensorflow-tpu 2\.20\.0, here is plain tensorflow 2\.20\.0\."):
        strategy.make_strategy(TrainConfig(devices="tpu:my-slice"))
