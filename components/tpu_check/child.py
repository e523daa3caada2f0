"""A part of the check in a process of its own: what it costs, and why it failed, in words.

TensorFlow and the TPU compiler never meet in one process, nor do they live in the one that trains or types; and a compiler
that dies takes nothing with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from components.common.errors import PipelineError
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.errors import CompilerMissingError, ProgramRefusedError

CONFIG, ERROR, STDERR = "config.json", "error.json", "stderr.txt"
KINDS = {kind.__name__: kind for kind in (ProgramRefusedError, CompilerMissingError)}


class Cost(NamedTuple):
    """What a process took: seconds, and the most memory that it held."""

    seconds: float
    peak_memory_bytes: int


def run_child(module: str, config: TpuCheckConfig, folder: Path, environment: Mapping[str, str]) -> Cost:
    """Run `python -m module FOLDER`, with `config` in the folder; return what it cost.

    Raises the PipelineError that it ended with, or ProgramRefusedError when it died.
    """
    (folder / CONFIG).write_text(config.model_dump_json())
    (folder / ERROR).unlink(missing_ok=True)
    started = time.monotonic()
    here = str(Path(__file__).parents[2])
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    with (folder / STDERR).open("w") as stderr:
        command = [sys.executable, "-m", module, str(folder)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:  # Ctrl-C or SIGTERM here ends it there
                process.kill()
                process.wait()
    if process.returncode:
        raise _failure(module, process.returncode, folder)
    return Cost(time.monotonic() - started, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def main(work: Callable[[TpuCheckConfig, Path], object]) -> int:
    """Do `work(config, folder)` on the folder of the command line; write down why it failed. Return the exit code."""
    folder = Path(sys.argv[1])
    try:
        work(TpuCheckConfig.model_validate_json((folder / CONFIG).read_bytes()), folder)
    except PipelineError as error:
        words = {"kind": type(error).__name__, "problem": error.problem, "cure": error.cure}
        (folder / ERROR).write_text(json.dumps(words))
        return error.exit_code
    return 0


def _failure(module: str, code: int, folder: Path) -> PipelineError:
    if (folder / ERROR).is_file():
        words = json.loads((folder / ERROR).read_text())
        return KINDS.get(words["kind"], PipelineError)(words["problem"], words["cure"])
    lines = [line for line in (folder / STDERR).read_text(errors="replace").splitlines() if line.strip()]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    cure = "Often that is memory: give the check more." if code == -signal.SIGKILL else ""
    last = f"; it last said: {lines[-1][:300]}" if lines else ""
    return ProgramRefusedError(f"{module.rpartition('.')[2]} {how}{last}.", cure)
