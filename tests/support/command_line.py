"""Run the command line in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from components.common.errors import PipelineError
from pipeline.cli import app


def run(*words: str) -> tuple[int, str]:
    """Run the command line; return the exit code and the output."""
    done = CliRunner().invoke(app, list(words))
    if isinstance(done.exception, PipelineError):
        return done.exception.exit_code, done.output + str(done.exception)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output
