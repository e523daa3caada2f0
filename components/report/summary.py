"""summary.json: the results of a run, for programs."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from components.common.artifacts import now
from components.common.journal import SNAPSHOT, ArtifactRef
from components.common.section import Summary
from components.report.description import RunDescription
from components.report.outcomes import (
    RunFailure,
    RunStatus,
    StepOutcome,
    StepStatus,
    contradiction,
    derive_outcomes,
    find_failure,
    read_entries,
    run_status,
    seconds_between,
)


class StepSummary(Summary):
    """The outcome of one step; `seconds` is the time in this run, so 0 for a step from the cache."""

    status: StepStatus
    seconds: float
    cached: bool


class RunSummary(Summary):
    """summary.json; the section of each step is that step's summary, null if it did not finish in this run."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)
    run_id: str
    status: RunStatus
    exit_code: int
    started_at: str
    finished_at: str
    seconds: float
    error: RunFailure | None
    steps: dict[str, StepSummary]
    ingest: dict[str, Any] | None
    validation: dict[str, Any] | None = Field(alias="validate")  # BaseModel has a method of that name
    tpu_check: dict[str, Any] | None = None  # a run without a TPU does not have this step
    train: dict[str, Any] | None
    evaluate: dict[str, Any] | None
    gate: dict[str, Any] | None
    push: dict[str, Any] | None
    artifacts: dict[str, ArtifactRef]
    note: str = ""  # set if the platform called a run whose steps all succeeded something else
    nothing_new: bool  # data, configuration and code are those of an earlier run, so no step was repeated


def read_run(description: RunDescription, reported: str, message: str) -> tuple[RunSummary, tuple[StepOutcome, ...], list[str]]:
    """Return the summary of a run as its journal says, the outcomes of its steps, and a note for each unreadable entry.

    `reported` and `message` are the runner's words for how the run ended.
    """
    finished_at = now()
    entries, notes = read_entries(description)
    outcomes = derive_outcomes(entries, description.started_at, finished_at, description.keys)
    status = run_status(reported, outcomes)
    failure = find_failure(status, outcomes, message)
    summary = summarize(description, outcomes, status, failure, finished_at, contradiction(reported, status))
    return summary, outcomes, notes


def summarize(
    description: RunDescription,
    outcomes: tuple[StepOutcome, ...],
    status: RunStatus,
    failure: RunFailure | None,
    finished_at: str,
    note: str = "",
) -> RunSummary:
    """Return the content of summary.json."""
    records = {outcome.step: outcome.record for outcome in outcomes}
    sections = {step: record.summary or None if record else None for step, record in records.items() if step != SNAPSHOT}
    return RunSummary(
        run_id=description.run_id,
        status=status,
        exit_code=failure.exit_code if failure else 0,
        started_at=description.started_at,
        finished_at=finished_at,
        seconds=round(seconds_between(description.started_at, finished_at), 3),
        error=failure,
        steps={
            outcome.step: StepSummary(status=outcome.status, seconds=round(outcome.seconds, 3), cached=outcome.cached)
            for outcome in outcomes
        },
        artifacts={step: record.artifact for step, record in records.items() if record and record.artifact},
        note=note,
        nothing_new=all(outcome.cached for outcome in outcomes),
        **sections,
    )
