"""What submit says of a run, from answers of a real Kubeflow Pipelines 2.17.0 and others of the same form."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.targets import remote
from tests.support.command_line import run
from tests.support.servers.kubeflow_server import answer_at, recorded_answer, task_details
from tests.targets.platform_tests import Platform


def test_a_step_is_what_its_last_attempt_says(platform: Platform, compiled: Path) -> None:
    platform.server.outcome = ("SUCCEEDED", {"ingest": "SUCCEEDED", "train": ["FAILED", "FAILED", "SUCCEEDED"]})
    code, output = run("submit", str(compiled), *platform.options)
    assert code == 0, output
    assert output.splitlines()[1:3] == ["  ingest: succeeded", "  train: succeeded"]


def test_a_real_run_that_was_retried(platform: Platform) -> None:
    """Recorded on a cluster: train's pod was deleted twice, and the run succeeded. The times are those of the answers."""
    real = recorded_answer("run_retried_and_succeeded")
    times = ["03:36:31", "03:37:05", "03:37:15", "03:37:45", "03:39:00", "03:41:00", "03:43:00", "03:48:35", "03:49:15"]
    platform.server.runs[real["run_id"]] = {}
    platform.server.answers = [*(answer_at(real, f"2026-11-24T{time}Z") for time in times), real]
    code, output = run("submit", *platform.options, "--follow", real["run_id"])
    assert code == 0, output
    assert output.splitlines() == [
        "  snapshot: running",
        "  snapshot: succeeded",
        "  ingest: succeeded",
        "  validate: succeeded",
        "  train: running",
        "  train: attempt 1 was lost or failed",
        "  train: attempt 2 was lost or failed",
        "  train: succeeded",
        "  evaluate: succeeded",
        "  push: running",
        "  push: succeeded",
        "  report: succeeded",
        f"Succeeded: {platform.service}/#/runs/details/{real['run_id']}",
    ]


def test_a_pod_that_stays_pending_is_told(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TOLD_AFTER_SECONDS", 0.0)
    real = recorded_answer("run_retried_and_succeeded")
    platform.server.runs[real["run_id"]] = {}
    platform.server.answers = [answer_at(real, "2026-11-24T03:37:01Z")] * 2 + [real]
    code, output = run("submit", *platform.options, "--follow", real["run_id"])
    assert code == 0, output
    assert output.splitlines()[:3] == [
        "  snapshot: running",
        "  a step waits for its pod; kubectl get events in the namespace of the run says why",
        "  snapshot: succeeded",
    ]


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        ("FAILED", "Cancelled"),
        ("CANCELING", "Cancelled, but not ended after 0 minutes; the step report may have no machine to run on"),
    ],
)
def test_a_cancelled_run(platform: Platform, monkeypatch: pytest.MonkeyPatch, last: str, sentence: str) -> None:
    """Kubeflow says CANCELING and then FAILED, or CANCELING for ever if the exit handler cannot be scheduled."""
    monkeypatch.setattr(remote, "CANCELLED_AFTER_SECONDS", 0.3)
    platform.server.runs["r"] = {}
    states = [("RUNNING", "RUNNING"), ("CANCELING", "RUNNING"), (last, "FAILED")]
    platform.server.answers = [
        {"run_id": "r", "state": run, "run_details": task_details({"train": step})} for run, step in states
    ]
    code, output = run("submit", *platform.options, "--follow", "r")
    assert code == 1
    assert output.splitlines() == [
        "  train: running",
        "  the run is being cancelled",
        "  train: failed",
        f"{sentence}: {platform.service}/#/runs/details/r",
    ]
