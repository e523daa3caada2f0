"""Ctrl-C, SIGTERM and kill -9: nothing half-written, nothing lost, and the next run goes on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from components.common.artifacts import read_manifest
from tests.support.local_runs import interrupt, latest_summary, leftovers, run, start, step_runs, wait_for

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]
STEPS = ["ingest", "validate", "train", "evaluate", "push"]
LONG = "train.rounds=400"


def checkpoints(runs: Path) -> list[Path]:
    return sorted((runs / ".work" / "checkpoints").glob("*/round-*"))


def test_kill_9_in_training_then_run_again(tmp_path: Path) -> None:
    process = start(tmp_path, LONG)
    wait_for(lambda: len(checkpoints(tmp_path)) >= 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert latest_summary(tmp_path) == {}, "a killed run has no summary, and above all none that says success"
    reached = int(checkpoints(tmp_path)[-1].name.removeprefix("round-"))
    again = run(tmp_path, LONG)
    assert again.code == 0, again.stdout + again.stderr
    assert again.summary["train"]["resumed_from_round"] == reached > 0
    assert again.summary["train"]["rounds"] == 400
    assert again.statuses()["ingest"] == "cached"
    metrics = Path(again.summary["artifacts"]["train"]["path"]) / "metrics.jsonl"
    assert [json.loads(line)["round"] for line in metrics.read_text().splitlines()] == list(range(10, 401, 10))


def test_kill_9_of_the_runner_alone_leaves_no_orphan_that_trains_on(tmp_path: Path) -> None:
    process = start(tmp_path, LONG)
    wait_for(lambda: len(checkpoints(tmp_path)) >= 1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    again = run(tmp_path, LONG)  # waits for the orphan, which ends by itself after the next host call, with a checkpoint
    assert again.code == 0, again.stdout + again.stderr
    assert again.summary["train"]["resumed_from_round"] >= 10


@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_in_each_step(step: str, tmp_path: Path) -> None:
    long = [LONG] if step == "train" else []
    process = start(tmp_path, *long)
    wait_for(step_runs(tmp_path, step))
    if step == "train":
        wait_for(lambda: len(checkpoints(tmp_path)) >= 1)
    output = interrupt(process)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert leftovers(tmp_path) == []
    summary = latest_summary(tmp_path)
    assert summary["status"] == "interrupted"
    assert summary["steps"][step]["status"] in {"interrupted", "killed"}
    assert (tmp_path / "latest" / "report.html").is_file()
    again = run(tmp_path, *long)
    assert again.code == 0, again.stdout + again.stderr
    assert all(again.statuses()[before] == "cached" for before in STEPS[: STEPS.index(step)])
    assert again.summary["push"]["decision"] in {"published", "unchanged"}
    if step == "train":
        assert again.summary["train"]["resumed_from_round"] >= 10
    for each in STEPS:
        read_manifest(Path(again.summary["artifacts"][each]["path"]))


def test_sigterm_to_the_runner_alone_saves_and_reports(tmp_path: Path) -> None:
    process = start(tmp_path, LONG)
    wait_for(lambda: len(checkpoints(tmp_path)) >= 1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    summary = latest_summary(tmp_path)
    assert summary["steps"]["train"]["status"] == "interrupted"
    assert run(tmp_path, LONG).summary["train"]["resumed_from_round"] >= 10
