"""Our exceptions: each says the problem, the numbers and the cure in one line, and knows its exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class PipelineError(Exception):
    """A failure with a cure; exit code 1."""

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
    """The data is not fit to train on; exit code 3."""

    exit_code = 3


class ArtifactError(PipelineError):
    """An artifact is missing, half-written, damaged or cannot be written."""


class DeviceError(PipelineError):
    """The devices that were asked for are not there."""


class TrainingDivergedError(PipelineError):
    """A loss, norm or weight is no longer finite; `evidence` are the lines that tell of it, one a round."""

    def __init__(self, problem: str, cure: str = "", evidence: Sequence[Mapping[str, Any]] = ()) -> None:
        self.evidence = list(evidence)
        super().__init__(problem, cure)


class InterruptedStepError(PipelineError):
    """Ctrl-C or SIGTERM ended a step; what was saved is kept."""

    exit_code = 1


def first_line(error: BaseException | str) -> str:
    """Return the first line of a message without a full stop, at most 200 characters; the exception's type if it is empty."""
    message = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(message).splitlines()[0][:200].rstrip(".")
