"""Errors of Beam workers: runners return a traceback as text, which becomes a single sentence."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator

from components.common import errors
from components.common.errors import ArtifactError, PipelineError, first_line

# Beam appends this to the first argument of an exception: in ours, between the problem and the cure.
WHILE_RUNNING = re.compile(r" \[while running '[^']*'\] ?")

# Messages of runners (Beam's own and Flink) when the process of a worker has ended.
WORKER_GONE = re.compile(
    r"Channel closed prematurely|client cancelled|Worker subprocess exited|StatusCode\.UNAVAILABLE|Process died"
)


@contextlib.contextmanager
def writing(file: str) -> Iterator[None]:
    """Turn an OSError while a worker writes `file` into an ArtifactError."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"Cannot write {file}: {first_line(error)}.",
            "Free space or name a writable folder, for instance --set run.dir=DIR.",
        ) from error


def unwrapped(error: BaseException) -> BaseException:
    """Return the error that a worker raised, from the error that the runner raised.

    A PipelineError and Ctrl-C are restored. Any other error becomes a PipelineError with its type, its message and the step
    in which it was raised.
    """
    text = "".join(traceback.format_exception_only(error)).strip()
    if re.search(r"(^|: )KeyboardInterrupt\b", text, re.MULTILINE):
        return KeyboardInterrupt()
    ours = re.findall(r"^components\.common\.errors\.(\w+): (.+)$", text, re.MULTILINE)
    if ours:
        name, message = ours[-1]
        problem, _, cure = WHILE_RUNNING.sub("\0", message).partition("\0")
        kind: type[PipelineError] = getattr(errors, name)
        return kind(problem, cure)
    if WORKER_GONE.search(text):
        return worker_gone()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = next((line for line in reversed(lines) if "[while running" in line), lines[-1])
    return PipelineError(f"The Beam pipeline failed: {line[:400].rstrip('.')}.", "Run with --debug for the traceback.")


def worker_gone() -> PipelineError:
    """Return the error for a worker process that ended before its work was done."""
    return PipelineError(
        "A Beam worker ended unexpectedly: it was killed, or the machine ran out of memory.",
        "Run again: finished chunks are reused.",
    )
