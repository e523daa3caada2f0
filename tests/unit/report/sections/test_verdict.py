"""The headline of each decision and of each failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.common.artifacts import now
from components.common.journal import STEPS, StepRecord
from components.report.outcomes import RunFailure, StepOutcome
from components.report.sections.verdict import RunVerdict, run_verdict
from components.report.summary import summarize
from tests.support.report_runs import Run


def verdict_of(status: str, failure: RunFailure | None, **outcomes: StepOutcome) -> RunVerdict:
    """Return the headline of a run in which these steps had these outcomes, and all others succeeded."""
    steps = tuple(outcomes.get(step, StepOutcome(step, "succeeded")) for step in STEPS)
    return run_verdict(summarize(Run(Path()).description, steps, status, failure, now()))


@pytest.mark.parametrize(
    ("decision", "tone", "title"),
    [
        ({"decision": "published", "version": "v0007", "champion": "v0006"}, "good", "Published as v0007"),
        ({"decision": "kept", "champion": "v0006"}, "warn", "Not published: v0006 stays in service"),
        ({"decision": "kept", "champion": ""}, "warn", "Not published: no model is in service"),
        (
            {"decision": "unchanged", "version": "v0007", "champion": "v0007"},
            "neutral",
            "Unchanged: this model is v0007, which is in service",
        ),
        ({"decision": "unchanged", "champion": "v0008"}, "neutral", "Unchanged: v0008 stays in service"),
        ({"decision": "postponed"}, "warn", "Decision: postponed"),
        ({}, "warn", "Decision: none recorded"),
    ],
)
def test_verdict_of_a_decision(decision: dict[str, str], tone: str, title: str) -> None:
    summary = {**decision, "reason": "Because."}
    record = StepRecord(step="push", key="k", state="succeeded", pid=1, started_at=now(), summary=summary)
    verdict = verdict_of("succeeded", None, push=StepOutcome("push", "succeeded", record=record))
    assert (verdict.tone, verdict.title, verdict.reason) == (tone, title, "Because.")


@pytest.mark.parametrize(
    ("status", "run_status", "tone", "title"),
    [
        ("failed", "failed", "bad", "train failed"),
        ("killed", "failed", "bad", "train was killed"),
        ("interrupted", "interrupted", "warn", "train was interrupted"),
    ],
)
def test_verdict_of_a_failure(status: str, run_status: str, tone: str, title: str) -> None:
    train = StepOutcome("train", status)
    verdict = verdict_of(run_status, RunFailure(step="train", problem="Problem.", cure="Cure."), train=train)
    assert (verdict.tone, verdict.title, verdict.reason, verdict.cure) == (tone, title, "Problem.", "Cure.")
    assert verdict_of("failed", RunFailure(step=None, problem="P", cure="C")).title == "The run failed"
