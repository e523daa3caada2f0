"""What a check can find."""

from __future__ import annotations

from components.common.errors import PipelineError


class ProgramRefusedError(PipelineError):
    """The training would not compile or fit on the slice; exit code 1."""


class CompilerMissingError(PipelineError):
    """The TPU compiler is not installed here, or in another version; exit code 1."""
