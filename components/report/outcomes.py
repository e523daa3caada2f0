"""The outcome of each step of a run, derived from the journal, because a failed runner reports little or the wrong thing.

The journal outlives runs: an entry older than the run was either reused (its step came from the cache) or belongs to
another run. Its time and the steps before it tell which.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, ValidationError

from components.common.errors import ArtifactError, first_line
from components.common.journal import STEPS, StepRecord, read_entry
from components.common.section import Summary
from components.report.description import RunDescription

StepStatus = Literal["succeeded", "cached", "failed", "killed", "interrupted", "skipped"]
RunStatus = Literal["succeeded", "failed", "interrupted"]
BROKEN: tuple[StepStatus, ...] = ("failed", "killed", "interrupted")
NEVER_CACHED = ("gate", "push")  # they read the registry, which changes between runs, so they run every time
INTERRUPTED = ("interrupted", "cancelled", "canceled")
# KFP's local runner and Vertex AI say SUCCEEDED; Kubeflow Pipelines 2.17.0 passes on ML Metadata's COMPLETE.
SUCCESSES = ("succeeded", "complete")


@dataclass(frozen=True)
class StepOutcome:
    """The outcome of one step of a run; `record` is its journal entry unless the step was skipped."""

    step: str
    status: StepStatus
    seconds: float = 0.0
    cached: bool = False
    record: StepRecord | None = None


class RunFailure(Summary):
    """Why a run did not succeed; `step` is null if no step recorded an error."""

    step: str | None
    problem: str
    cure: str
    exit_code: int = Field(1, exclude=True)
    traceback: str = Field("", exclude=True)


def read_entries(description: RunDescription) -> tuple[dict[str, StepRecord], list[str]]:
    """Return the journal entries that can be read, by step, and a sentence for each that cannot."""
    entries, notes = {}, []
    for step, key in description.keys.items():
        try:
            entry = read_entry(description.work_dir, step, key)
        except (ArtifactError, ValidationError) as error:
            notes.append(f"The journal entry of {step} cannot be read: {first_line(error)}.")
        else:
            if entry is not None:
                entries[step] = entry
    return entries, notes


def derive_outcomes(
    entries: Mapping[str, StepRecord], started_at: str, finished_at: str, steps: Iterable[str] = STEPS
) -> tuple[StepOutcome, ...]:
    """Return the outcome of each step in the run between two times (ISO 8601), in the order of the steps.

    An entry that began in this run states the outcome, but `running` means killed, since the run is over. An older success
    was reused if all steps before it succeeded too. Every other step was skipped.
    """
    outcomes: list[StepOutcome] = []
    for step in steps:
        outcomes.append(_outcome(step, entries.get(step), outcomes, started_at, finished_at))
    return tuple(outcomes)


def _outcome(step: str, entry: StepRecord | None, before: list[StepOutcome], started_at: str, finished_at: str) -> StepOutcome:
    if entry is None or any(outcome.status in BROKEN for outcome in before):
        return StepOutcome(step, "skipped")
    if _time(entry.started_at) >= _time(started_at):
        if entry.state == "running":
            return StepOutcome(step, "killed", seconds_between(entry.started_at, finished_at), record=entry)
        unchanged = step in NEVER_CACHED and entry.summary.get("decision") == "unchanged"
        return StepOutcome(step, entry.state, entry.seconds, unchanged, entry)
    reusable = entry.state == "succeeded" and step not in NEVER_CACHED
    if reusable and all(outcome.status != "skipped" for outcome in before):
        return StepOutcome(step, "cached", 0.0, True, entry)
    return StepOutcome(step, "skipped")


def run_status(reported: str, outcomes: tuple[StepOutcome, ...]) -> RunStatus:
    """Return the status of a run from what its steps recorded; only an interruption is taken from the runner (decision 0019).

    A run succeeded if every step recorded success in it or in an earlier run. gate and push record their results in every run,
    so a run that ended earlier is never taken for a success. A runner may report success for a step that failed or never ran,
    failure for Ctrl-C, and RUNNING or COMPLETE for a run that has ended.
    """
    statuses = {outcome.status for outcome in outcomes}
    if reported.lower() in INTERRUPTED:
        return "interrupted"
    if statuses & {"failed", "killed"}:
        return "failed"
    if "interrupted" in statuses:
        return "interrupted"
    return "failed" if "skipped" in statuses else "succeeded"


def contradiction(reported: str, status: RunStatus) -> str:
    """Return a sentence if the runner called a successful run something else, "" otherwise."""
    if status != "succeeded" or reported.lower() in SUCCESSES:
        return ""
    word = f"reported {reported}" if reported else "reported no state"
    return f"Every step recorded success, but the pipeline's runner {word}: it may have lost an output. Read the runner's log."


def find_failure(status: RunStatus, outcomes: tuple[StepOutcome, ...], message: str) -> RunFailure | None:
    """Return why the run did not succeed: the error of the step that failed, or the runner's message; None for a success."""
    if status == "succeeded":
        return None
    broken = next((outcome for outcome in outcomes if outcome.status in BROKEN), None)
    if broken is None or broken.record is None:
        return _unexplained(status, outcomes, message.strip())
    error = broken.record.error
    if error is None:
        process = f"process {broken.record.pid} was killed"
        problem = f"{broken.step} ended without a result after at most {broken.seconds:.0f} s: {process}."
        cure = (
            "Often the cause is a lack of memory: give the step more memory or use smaller batches, then run again to resume."
        )
        return RunFailure(step=broken.step, problem=problem, cure=cure)
    fields = error.model_dump(include={"problem", "cure", "traceback"})
    return RunFailure(step=broken.step, exit_code=error.exit_code or 1, **fields)


def _unexplained(status: RunStatus, outcomes: tuple[StepOutcome, ...], message: str) -> RunFailure:
    if status == "interrupted":
        problem = message or "The run was interrupted between two steps."
        return RunFailure(step=None, problem=problem, cure="Run again to resume.")
    skipped = [outcome.step for outcome in outcomes if outcome.status == "skipped"]
    missing = f", and there is no record of {', '.join(skipped)}" if skipped else ""
    reported = f"The runner reported: {message}" if message else "The runner gave no reason."
    return RunFailure(
        step=None,
        problem=f"The run ended early: no step recorded an error{missing}. {reported}",
        cure="A step could not start, or its machine was lost before it began: read the platform's log, then run again.",
    )


def seconds_between(start: str, end: str) -> float:
    """Return the seconds between two ISO 8601 times, at least 0."""
    return max(0.0, (_time(end) - _time(start)).total_seconds())


def _time(text: str) -> datetime.datetime:
    moment = datetime.datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
