"""Errors on their way from a Beam worker to the user: Beam hands over a traceback as text, we want one sentence."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

from components import errors
from components.errors import ArtifactError, PipelineError


class CarriedError(RuntimeError):
    """Holds a PipelineError as JSON in its text, since the text is all that every runner carries."""


@contextlib.contextmanager
def carried(file: str = "") -> Iterator[None]:
    """Turn what happens while a worker writes `file` into an error that `unwrapped` finds again."""
    try:
        yield
    except PipelineError as error:
        raise CarriedError(_packed(error)) from error
    except OSError as error:
        cause = ArtifactError(
            f"Cannot write {file}: {error.strerror or error}.",
            "Free space or name a writable folder, for instance --set run.dir=DIR.",
        )
        raise CarriedError(_packed(cause)) from error


def unwrapped(error: BaseException) -> PipelineError:
    """Return the error that a worker raised: ours as it was, any other with its type, its words and the step it hit."""
    if isinstance(error, PipelineError):
        return error
    text = str(error)
    if packed := re.search(r"«carried (.*?) carried»", text):
        name, problem, cure = json.loads(packed[1])
        return _classes()[name](problem, cure)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    line = next((line for line in reversed(lines) if "[while running" in line), lines[-1])
    said = f"{line[:400].rstrip('.')}."
    return PipelineError(f"The Beam pipeline failed: {said}", "Run with --debug for the traceback.")


def _packed(error: PipelineError) -> str:
    return f"«carried {json.dumps([type(error).__name__, error.problem, error.cure])} carried»"


def _classes() -> dict[str, type[PipelineError]]:
    known = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, PipelineError)]
    return {item.__name__: item for item in known}
