"""SIGTERM and Ctrl-C: a request to stop, which the loop follows after the current host call and a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SPOT_NOTICE_SECONDS = 30  # from SIGTERM to SIGKILL on Google's spot machines, and on Kubernetes by default


class StopRequest:
    """Whether a stop was requested; `by` is the name of the signal."""

    def __init__(self) -> None:
        self.by = ""

    def __bool__(self) -> bool:
        return bool(self.by)


@contextlib.contextmanager
def stop_requested_by_signal() -> Iterator[StopRequest]:
    """Yield a request that SIGTERM (a preempted machine) or SIGINT (Ctrl-C) sets; restore the old handlers afterwards."""
    request = StopRequest()

    def note(number: int, _: FrameType | None) -> None:
        request.by = signal.Signals(number).name

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield request
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def long_call_text(call_seconds: float) -> str:
    """Return a warning if host calls are so long that a preempted machine may be gone before the checkpoint; else ""."""
    if call_seconds <= SPOT_NOTICE_SECONDS / 2:
        return ""
    return (
        f"A host call takes {call_seconds:.0f} s, but a preempted machine stops after {SPOT_NOTICE_SECONDS} s: lower"
        " train.rounds_per_call so that a checkpoint can be saved in time"
    )
