"""summary.json: the results of a run, for programs."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from components.common.journal import SNAPSHOT, ArtifactRef
from components.common.section import Summary
from components.report.description import RunDescription
from components.report.outcomes import RunFailure, RunStatus, StepOutcome, StepStatus, nothing_new, seconds_between


class StepSummary(Summary):
    """The outcome of one step; `seconds` is the time in this run, so 0 for a step from the cache."""

    status: StepStatus
    seconds: float
    cached: bool


class RunError(Summary):
    """Why the run did not succeed; `step` is null if no step recorded an error."""

    step: str | None
    problem: str
    cure: str


class RunSummary(Summary):
    """summary.json; the section of each step is that step's summary, null if it did not finish in this run."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)
    run_id: str
    status: RunStatus
    exit_code: int
    started_at: str
    finished_at: str
    seconds: float
    error: RunError | None
    steps: dict[str, StepSummary]
    ingest: dict[str, Any] | None
    validation: dict[str, Any] | None = Field(alias="validate")  # BaseModel has a method of that name
    tpu_check: dict[str, Any] | None = None
    train: dict[str, Any] | None
    evaluate: dict[str, Any] | None
    gate: dict[str, Any] | None
    push: dict[str, Any] | None
    artifacts: dict[str, ArtifactRef]
    note: str = ""  # set if the platform called a run whose steps all succeeded something else
    nothing_new: bool  # data, configuration and code are those of an earlier run, so no step was repeated

    @model_serializer(mode="wrap")
    def _without_missing_tpu_check(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave tpu_check out if the run does not have that step."""
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name != "tpu_check" or name in self.steps}


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
        error=RunError(step=failure.step, problem=failure.problem, cure=failure.cure) if failure else None,
        steps={
            outcome.step: StepSummary(status=outcome.status, seconds=round(outcome.seconds, 3), cached=outcome.cached)
            for outcome in outcomes
        },
        artifacts={step: record.artifact for step, record in records.items() if record and record.artifact},
        note=note,
        nothing_new=nothing_new(outcomes),
        **sections,
    )
