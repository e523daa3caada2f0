"""What a step tells the user while it works: lines that a terminal, a log and the runner of the pipeline can all read."""

from __future__ import annotations

import sys

from components.common.errors import InterruptedStepError

SAY = "» "  # The runner shows lines that begin so, and keeps everything else (what libraries print) in the log.
TICK = "… "  # A tick is shown as a moving bar on a terminal, as a line elsewhere.


def say(text: str) -> None:
    """Print one line for the user, at once. Raises InterruptedStepError when nobody reads any more (an orphan ends)."""
    _write(f"{SAY}{text}\n")


def tick(done: int, total: int, text: str) -> None:
    """Tell how far the step is: `done` of `total`, and a few words."""
    _write(f"{TICK}{done}/{total} {text}\n")


def _write(line: str) -> None:
    try:
        sys.stdout.write(line)
        sys.stdout.flush()
    except BrokenPipeError:
        raise InterruptedStepError("The run that started this step is gone.", "Run again to go on.") from None
