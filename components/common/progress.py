"""Progress lines that a step prints for the user: the terminal, the log and the pipeline's runner all read them."""

from __future__ import annotations

import sys

from components.common.errors import InterruptedStepError

SAY = "» "  # The runner shows lines with this prefix. All other output (what libraries print) goes to the log only.
TICK = "… "  # The runner shows a tick as a progress bar on a terminal, as a line elsewhere.


def say(text: str) -> None:
    """Print one line for the user and flush it.

    Raises InterruptedStepError when the reader of the output is gone, so that an orphaned step ends.
    """
    _write(f"{SAY}{text}\n")


def tick(done: int, total: int, text: str) -> None:
    """Print how far the step is: `done` of `total`, and a few words. Raises as `say` does."""
    _write(f"{TICK}{done}/{total} {text}\n")


def _write(line: str) -> None:
    try:
        sys.stdout.write(line)
        sys.stdout.flush()
    except BrokenPipeError:
        raise InterruptedStepError("The run that started this step is gone.", "Run again to resume.") from None
