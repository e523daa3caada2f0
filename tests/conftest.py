"""Fixtures and settings for all tests."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path

import hypothesis
import pytest

from tests.support.datasets.fashion_mnist import PackageMissingError, make_manual_dir

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as components/__init__.py does
# Two processes run the tests on two cores, where a second thread of each only waits, in a loop. Read when NumPy is imported.
# Programs that import `tests` do not get it: runs in containers and outside of them must make the same bytes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
VIRTUAL_CPUS = 8
hypothesis.settings.register_profile("shared machine", deadline=None)  # how long an example takes says nothing
hypothesis.settings.load_profile("shared machine")
# A shell that starts the tests in the background makes them ignore SIGINT, which the processes that a test interrupts inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def stack_without_source(context: int = 1) -> list[inspect.FrameInfo]:
    """Return the calls as `inspect.stack` does, without their lines of source."""
    del context
    calls = traceback.walk_stack(sys._getframe(1))
    return [inspect.FrameInfo(frame, frame.f_code.co_filename, line, frame.f_code.co_name, None, None) for frame, line in calls]


# KFP asks it for the name of a caller, 24 times a compilation; with source, that takes two thirds of the time of such a test.
inspect.stack = stack_without_source


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with long tests first, so that no worker is left alone with one of them at the end.

    Those have a time limit of their own; among equal limits, the file with fewer tests has the longer ones.
    """
    limits: dict[Path, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        limits[item.path] = max(limits.get(item.path, 0.0), float(marker.args[0]) if marker else 0.0)
    counts = Counter(item.path for item in items)
    items.sort(key=lambda item: (-limits[item.path], counts[item.path] if limits[item.path] else 0))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Look for garbage less often; create the virtual devices, because TensorFlow cannot add any once it has used the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)  # a tenth of the tests' time was spent on looking through TensorFlow's objects
    if any(name in item.nodeid for item in session.items for name in ("train", "parity", "tests/tpu")):
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * VIRTUAL_CPUS)
        tf.config.list_logical_devices()  # creates them: from now on no test can set another number


@pytest.fixture(scope="session")
def in_ci() -> bool:
    """Whether the tests run in CI, where a missing program fails a test; elsewhere the test is skipped."""
    return os.environ.get("CI", "") == "true"


@pytest.fixture(scope="session")
def fashion_mnist(in_ci: bool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the original files of Fashion-MNIST, which come from a Debian package."""
    try:
        return make_manual_dir(tmp_path_factory.mktemp("fashion-mnist"))
    except PackageMissingError as error:
        if in_ci:
            raise
        pytest.skip(str(error))
