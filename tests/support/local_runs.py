"""Run the pipeline as a user does: the command line in a new process, with a short training on real digits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
SHORT = [
    "train.rounds=40", "train.n_critic=3", "train.rounds_per_call=5", "train.log_every_rounds=10",
    "train.checkpoint_every_rounds=10", "train.precision=float32",
    "train.sample_every_rounds=20", "train.generator_channels=8", "train.critic_channels=8", "train.global_batch_size=16",
    "evaluate.samples=200", "evaluate.extractor_epochs=2", "evaluate.kid_subset_size=100",
    "gate.first_share=0.0",  # after such a short training the images are hardly better than noise
]  # fmt: skip


class Outcome(NamedTuple):
    """The result of a run."""

    code: int
    stdout: str
    stderr: str
    summary: dict[str, Any]

    def statuses(self) -> dict[str, str]:
        """Return the status of each step."""
        return {step: row["status"] for step, row in self.summary["steps"].items()}


def command(runs: Path, *overrides: str) -> list[str]:
    """Return the command line of a run."""
    words = [word for override in (*SHORT, *overrides) for word in ("--set", override)]
    return [sys.executable, "-m", "pipeline", "run", "--set", f"run.dir={runs}", *words]


def run(runs: Path, *overrides: str) -> Outcome:
    """Run the pipeline to its end."""
    done = subprocess.run(command(runs, *overrides), capture_output=True, text=True, cwd=ROOT, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr, latest_summary(runs))


def latest_summary(runs: Path) -> dict[str, Any]:
    """Return summary.json of the last run that wrote one; empty if there is none."""
    file = runs / "latest" / "summary.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def start(runs: Path, *overrides: str) -> subprocess.Popen[str]:
    """Start a run in a new process group, as a terminal does."""
    words = command(runs, *overrides)
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
    )


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until a condition holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.05)


def step_runs(runs: Path, step: str) -> Callable[[], bool]:
    """Return a condition: the journal says that the step is running."""

    def running() -> bool:
        entries = (runs / ".work" / "journal").glob(f"{step}-*.json")
        return any(json.loads(entry.read_text())["state"] == "running" for entry in entries)

    return running


def interrupt(process: subprocess.Popen[str]) -> str:
    """Send SIGINT to every process of the group, as Ctrl-C does. Return the output of the run."""
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    return output


def leftovers(runs: Path) -> list[Path]:
    """Return everything half-written: temporary files and folders, and artifacts without a manifest."""
    outputs = (path for path in runs.glob("2*/steps/*/*/*") if path.is_dir())
    return [*runs.rglob(".*.tmp"), *(path for path in outputs if not (path / "manifest.json").is_file())]
