"""Runs a stage of the check as `python -m MODULE FOLDER`: measures it, and turns its failure into an error.

TensorFlow and the TPU compiler cannot share a process, and a compiler that crashes must not take the caller with it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from components.common.errors import PipelineError
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.errors import CompilerMissingError, ExecutionRefusedError, ProgramRefusedError

CONFIG, ERROR, STDERR = "config.json", "error.json", "stderr.txt"
KINDS = {kind.__name__: kind for kind in (ProgramRefusedError, ExecutionRefusedError, CompilerMissingError)}


class Cost(NamedTuple):
    """The run time of a stage, and the peak memory of the largest child process so far."""

    seconds: float
    peak_memory_bytes: int


def run_subprocess(module: str, config: TpuCheckConfig, folder: Path, environment: Mapping[str, str]) -> Cost:
    """Run `python -m module FOLDER` with `config` in the folder; return its cost.

    Raises the PipelineError that stopped it, or ProgramRefusedError if it crashed.
    """
    (folder / CONFIG).write_text(config.model_dump_json())
    (folder / ERROR).unlink(missing_ok=True)
    started = time.monotonic()
    with (folder / STDERR).open("w") as output:
        command = [sys.executable, "-m", module, str(folder)]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            check=False,
        )
    if done.returncode:
        raise _failure(module, done.returncode, folder)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return Cost(time.monotonic() - started, peak * (1 if sys.platform == "darwin" else 1024))


def main(work: Callable[[TpuCheckConfig, Path], object]) -> int:
    """Call `work(config, folder)` with the folder of the command line; record a PipelineError there. Return the exit code."""
    folder = Path(sys.argv[1])
    try:
        work(TpuCheckConfig.model_validate_json((folder / CONFIG).read_bytes()), folder)
    except PipelineError as error:
        content = {"kind": type(error).__name__, "problem": error.problem, "cure": error.cure}
        (folder / ERROR).write_text(json.dumps(content))
        return error.exit_code
    return 0


def _failure(module: str, code: int, folder: Path) -> PipelineError:
    if (folder / ERROR).is_file():
        content = json.loads((folder / ERROR).read_text())
        return KINDS.get(content["kind"], PipelineError)(content["problem"], content["cure"])
    lines = [line for line in (folder / STDERR).read_text(errors="replace").splitlines() if line.strip()]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    last = f"; its last output was: {lines[-1][:300]}" if lines else ""
    cure = "The usual reason is too little memory: give the check more." if code == -signal.SIGKILL else ""
    return ProgramRefusedError(f"{module.rpartition('.')[2]} {how}{last}.", cure)
