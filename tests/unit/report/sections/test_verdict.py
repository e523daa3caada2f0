"""The headline of each decision and of each failure."""

from __future__ import annotations

import pytest

from components.common.artifacts import now
from components.common.journal import StepRecord
from components.report.outcomes import RunFailure, StepOutcome
from components.report.sections.verdict import run_verdict


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
    verdict = run_verdict("succeeded", (StepOutcome("push", "succeeded", record=record),), None)
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
    outcomes = (StepOutcome("ingest", "succeeded"), StepOutcome("train", status))
    verdict = run_verdict(run_status, outcomes, RunFailure("train", "Problem.", "Cure."))
    assert (verdict.tone, verdict.title, verdict.reason, verdict.cure) == (tone, title, "Problem.", "Cure.")
    assert run_verdict("failed", outcomes, RunFailure(None, "P", "C")).title == "The run failed"
