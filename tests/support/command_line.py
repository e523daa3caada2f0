"""Run the command line, in this process or in another one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from components.common.errors import PipelineError
from pipeline.cli import app
from tests.support.local_runs import ROOT


def run(*words: str) -> tuple[int, str]:
    """Run the command line; return the exit code and the output."""
    done = CliRunner().invoke(app, list(words))
    if isinstance(done.exception, PipelineError):
        return done.exception.exit_code, done.output + str(done.exception)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def run_process(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process, with these variables too."""
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment, check=False)


def output_of(*words: str, **environment: str) -> str:
    """Run the command line in a process, which must succeed; return what it prints."""
    done = run_process(*words, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
