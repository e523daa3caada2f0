"""The errors that a check raises."""

from __future__ import annotations

from components.common.errors import PipelineError


class ProgramRefusedError(PipelineError):
    """The training would not compile or not fit on the slice; exit code 1."""


class ExecutionRefusedError(ProgramRefusedError):
    """The program compiles, but cannot be executed here, or does not train as the CPU does; exit code 1."""


class CompilerMissingError(PipelineError):
    """The TPU compiler is not installed, or in another version; exit code 1."""
