"""SIGTERM ends a step in one sentence, wherever it arrives."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from components.common.errors import InterruptedStepError
from pipeline.step_runner import stopped_by_sigterm


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_library_that_catches_each_exception_of_its_import_does_not_catch_the_signal() -> None:
    """TensorFlow calls inspect.getfullargspec, which turns an Exception of that moment into a TypeError."""
    stopped = pytest.raises(InterruptedStepError, match=r"Stopped by SIGTERM\. Run again to resume\.")
    with stopped, stopped_by_sigterm(), contextlib.suppress(Exception):
        os.kill(os.getpid(), signal.SIGTERM)


def test_ctrl_c_passes() -> None:
    with pytest.raises(KeyboardInterrupt), stopped_by_sigterm():
        os.kill(os.getpid(), signal.SIGINT)
