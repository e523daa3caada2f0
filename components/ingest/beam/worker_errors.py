"""Errors on their way from a Beam worker to the user: Beam hands over a traceback as text, we want one sentence."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator

from components.common import errors
from components.common.errors import ArtifactError, PipelineError

# Beam appends this to the first argument of an exception: in ours, it stands between the problem and the cure.
WHILE_RUNNING = re.compile(r" \[while running '[^']*'\] ?")

# What runners say when a worker's process is gone: Beam's own and Flink's.
WORKER_GONE = re.compile(
    r"Channel closed prematurely|client cancelled|Worker subprocess exited|StatusCode\.UNAVAILABLE|Process died"
)


@contextlib.contextmanager
def writing(file: str) -> Iterator[None]:
    """Turn what goes wrong while a worker writes `file` into an ArtifactError."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"Cannot write {file}: {error.strerror or error}.",
            "Free space or name a writable folder, for instance --set run.dir=DIR.",
        ) from error


def unwrapped(error: BaseException) -> BaseException:
    """Return the error that a worker raised, from the one that the runner raised.

    One of ours comes back as it was, and so does Ctrl-C; any other becomes a PipelineError with its type, its words and
    the step it happened in.
    """
    text = "".join(traceback.format_exception_only(error)).strip()
    if re.search(r"(^|: )KeyboardInterrupt\b", text, re.MULTILINE):
        return KeyboardInterrupt()
    ours = re.findall(r"^components\.common\.errors\.(\w+): (.+)$", text, re.MULTILINE)
    if ours:
        name, said = ours[-1]
        problem, _, cure = WHILE_RUNNING.sub("\0", said).partition("\0")
        kind: type[PipelineError] = getattr(errors, name)
        return kind(problem, cure)
    if WORKER_GONE.search(text):
        return worker_gone()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = next((line for line in reversed(lines) if "[while running" in line), lines[-1])
    return PipelineError(f"The Beam pipeline failed: {line[:400].rstrip('.')}.", "Run with --debug for the traceback.")


def worker_gone() -> PipelineError:
    """Return the error of a run whose worker process ended before its work was done."""
    return PipelineError(
        "A worker of the Beam pipeline ended in the middle: it was killed, or the machine had no memory left.",
        "Run again: what is decoded is kept.",
    )
