"""The exceptions of this program: each states the problem, the numbers and what to do in one line, and has an exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class PipelineError(Exception):
    """A failure: `problem` says what is wrong, `cure` what to do about it; exit code 1."""

    exit_code = 1

    def __init__(self, problem: str, cure: str = "") -> None:
        self.problem = problem
        self.cure = cure
        super().__init__(problem, cure)

    def __str__(self) -> str:
        return f"{self.problem} {self.cure}".strip()


class ConfigError(PipelineError):
    """The command line or a config value is wrong; exit code 2."""

    exit_code = 2


class DataRejectedError(PipelineError):
    """The data must not be used for training; exit code 3."""

    exit_code = 3


class ArtifactError(PipelineError):
    """An artifact is missing, incomplete or damaged, or it cannot be written."""


class UnreachableError(ArtifactError):
    """A store cannot be read or written now, which says nothing about the files in it."""


class ConflictError(ArtifactError):
    """Another process changed the same state at the same time; its change stands and ours was not made."""


class DeviceError(PipelineError):
    """The requested devices are not available."""


class TrainingDivergedError(PipelineError):
    """A loss, norm or weight is not finite; `evidence` holds the logged metrics that show it, one mapping for each round."""

    def __init__(self, problem: str, cure: str = "", evidence: Sequence[Mapping[str, Any]] = ()) -> None:
        self.evidence = list(evidence)
        super().__init__(problem, cure)


class InterruptedStepError(PipelineError):
    """Ctrl-C or SIGTERM ended a step; its saved work is kept."""


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's message, at most 200 characters and without the full stop.

    An exception without a message gives the name of its type.
    """
    message = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(message).splitlines()[0][:200].rstrip(".")
