"""Ctrl-C, SIGTERM and kill -9 leave nothing half-written, lose no work, and the next run resumes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from components.common.artifacts import read_manifest
from tests.support.local_runs import interrupt, latest_summary, leftovers, run, start, step_runs, wait_for

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]
STEPS = ["ingest", "validate", "train", "evaluate", "gate", "push"]
ROUNDS = 400
LONG = f"train.rounds={ROUNDS}"


class Runs:
    """Consecutive runs in one folder; each resumes where the one before was ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rounds_saved(self) -> int:
        saved = (self.folder / ".work" / "checkpoints").glob("*/round-*/manifest.json")
        return max((int(path.parent.name.removeprefix("round-")) for path in saved), default=0)

    def start_until_step(self, step: str) -> subprocess.Popen[str]:
        """Start a run and return it as soon as the step runs; for train, after two more checkpoints."""
        before = self.rounds_saved()
        process = start(self.folder, LONG)
        wait_for(step_runs(self.folder, step), seconds=300)
        if step == "train":
            wait_for(lambda: self.rounds_saved() >= before + 20)
        return process

    def assert_interrupted_in(self, step: str) -> None:
        """Check that the last run left nothing half-written, and wrote a summary and a report; earlier steps were completed."""
        assert leftovers(self.folder) == []
        summary = latest_summary(self.folder)
        assert summary["status"] == "interrupted"
        statuses = {name: row["status"] for name, row in summary["steps"].items()}
        assert statuses[step] in {"interrupted", "killed"}
        assert all(statuses[before] in {"succeeded", "cached"} for before in STEPS[: STEPS.index(step)])
        assert (self.folder / "latest" / "report.html").is_file()

    def assert_killed(self) -> None:
        """Check that the last run has no summary, so none that says success, and `latest` points to an earlier run."""
        assert not (max(self.folder.glob("2*")) / "summary.json").exists()
        assert latest_summary(self.folder)["status"] == "interrupted"


def test_runs_resume_whichever_step_was_ended_and_however(tmp_path: Path) -> None:
    """One training of 400 rounds is ended in four ways; each run resumes from what the one before has saved."""
    runs = Runs(tmp_path)
    for step in ("ingest", "validate"):
        process = runs.start_until_step(step)
        output = interrupt(process)
        assert process.returncode == 1, output
        assert "Traceback" not in output
        runs.assert_interrupted_in(step)

    process = runs.start_until_step("train")
    output = interrupt(process)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    runs.assert_interrupted_in("train")
    saved = runs.rounds_saved()

    process = runs.start_until_step("train")
    process.send_signal(signal.SIGTERM)  # to the runner alone
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    runs.assert_interrupted_in("train")
    assert latest_summary(tmp_path)["steps"]["ingest"]["status"] == "cached"
    assert f"Resuming from round {saved} of {ROUNDS}" in output
    saved = runs.rounds_saved()

    process = runs.start_until_step("train")
    os.kill(process.pid, signal.SIGKILL)  # the runner alone: its train step, now an orphan, ends after its next host call
    process.communicate()
    runs.assert_killed()
    at_kill = runs.rounds_saved()
    assert at_kill > saved

    process = runs.start_until_step("train")  # waits for the orphan
    os.killpg(process.pid, signal.SIGKILL)  # every process of the run
    output, _ = process.communicate()
    resumed = re.search(rf"Resuming from round (\d+) of {ROUNDS}", output)
    assert resumed, output
    assert at_kill <= int(resumed[1]) <= at_kill + 20, "the orphan must have stopped training"
    runs.assert_killed()

    saved = runs.rounds_saved()
    for step in ("evaluate", "push"):
        process = runs.start_until_step(step)
        output = interrupt(process)
        assert process.returncode == 1, output
        assert "Traceback" not in output
        runs.assert_interrupted_in(step)
        if step == "evaluate":
            assert latest_summary(tmp_path)["train"]["resumed_from_round"] == saved > 0

    last = run(tmp_path, LONG)
    assert last.code == 0, last.stdout + last.stderr
    assert [last.statuses()[step] for step in STEPS] == ["cached"] * 4 + ["succeeded"] * 2
    assert last.summary["train"]["rounds"] == ROUNDS
    assert last.summary["push"]["decision"] in {"published", "unchanged"}
    metrics = Path(last.summary["artifacts"]["train"]["path"]) / "metrics.jsonl"
    assert [json.loads(line)["round"] for line in metrics.read_text().splitlines()] == list(range(10, ROUNDS + 1, 10))
    for step in STEPS:
        read_manifest(Path(last.summary["artifacts"][step]["path"]))
