"""SIGTERM and Ctrl-C as a request that the loop obeys after the current host call, when it has saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SPOT_NOTICE_SECONDS = 30  # from SIGTERM to the end: Google's spot machines, and Kubernetes by default


class StopRequest:
    """Whether somebody asked to stop, and how."""

    def __init__(self) -> None:
        self.by = ""

    def __bool__(self) -> bool:
        return bool(self.by)


@contextlib.contextmanager
def stop_requested_by_signal() -> Iterator[StopRequest]:
    """Yield a request that SIGTERM (a preempted machine) or SIGINT (Ctrl-C) sets; the handlers of before come back."""
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
    """Return a warning where a stop may come too late: it is obeyed after the host call, then the checkpoint is written."""
    if call_seconds <= SPOT_NOTICE_SECONDS / 2:
        return ""
    return (
        f"A host call takes {call_seconds:.0f} s, and a machine that is taken away gives {SPOT_NOTICE_SECONDS} s to save: lower"
        " train.rounds_per_call"
    )
