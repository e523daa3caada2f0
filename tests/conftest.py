"""What all tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.fashion_mnist import PackageMissingError, make_manual_dir

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as components/__init__.py does
VIRTUAL_CPUS = 8
# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Virtual devices must exist before TensorFlow first uses the CPU, so they are made before the first test."""
    if any("train" in item.nodeid or "parity" in item.nodeid for item in session.items):
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * VIRTUAL_CPUS)
        tf.config.list_logical_devices()  # now they are made: a test that asks for fewer can no longer set their number


@pytest.fixture(scope="session")
def in_ci() -> bool:
    """Whether a missing heavy part is a failure (CI) or a skip (a user's machine)."""
    return os.environ.get("CI", "") == "true"


@pytest.fixture(scope="session")
def fashion_mnist(in_ci: bool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with Fashion-MNIST's original files; without Debian's package a skip, in CI a failure."""
    try:
        return make_manual_dir(tmp_path_factory.mktemp("fashion-mnist"))
    except PackageMissingError as error:
        if in_ci:
            raise
        pytest.skip(str(error))
