"""What became of each step in one run, derived from the journal, since a failed runner says little or the wrong thing.

The journal outlives runs: an entry that is older than the run was either reused (its step came from the cache) or has
nothing to do with it. Which of the two follows from its time and from the steps before it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from components.common.errors import first_line
from components.common.journal import STEPS, StepRecord, read_entry
from components.report.description import RunDescription

StepStatus = Literal["succeeded", "cached", "failed", "killed", "interrupted", "skipped"]
RunStatus = Literal["succeeded", "failed", "interrupted"]
BROKEN: tuple[StepStatus, ...] = ("failed", "killed", "interrupted")
NEVER_CACHED = "push"  # it looks at the registry, which changes from run to run, so it is executed every time


@dataclass(frozen=True)
class Outcome:
    """What one step did in this run; `record` is its journal entry unless the step was skipped."""

    step: str
    status: StepStatus
    seconds: float = 0.0
    cached: bool = False
    record: StepRecord | None = None


@dataclass(frozen=True)
class Failure:
    """Why a run did not succeed; `step` is None where no step explains it."""

    step: str | None
    problem: str
    cure: str
    exit_code: int = 1
    traceback: str = ""


def read_entries(description: RunDescription) -> tuple[dict[str, StepRecord], list[str]]:
    """Return the journal entry of each step that has a readable one, and a sentence for each that cannot be read."""
    entries, notes = {}, []
    for step, key in description.keys.items():
        try:
            entry = read_entry(Path(description.work_dir), step, key)
        except (OSError, ValidationError) as error:
            notes.append(f"The journal's entry of {step} cannot be read: {first_line(error)}.")
        else:
            if entry is not None:
                entries[step] = entry
    return entries, notes


def derive_outcomes(
    entries: Mapping[str, StepRecord], started_at: str, finished_at: str, steps: Iterable[str] = STEPS
) -> tuple[Outcome, ...]:
    """Return what each step did in the run between two times (ISO 8601), in the order of the steps.

    An entry that began in this run says it itself, except that `running` means killed, for the run is over. An older
    success was reused, if all steps before it succeeded too. Everything else was skipped.
    """
    outcomes: list[Outcome] = []
    for step in steps:
        outcomes.append(_outcome(step, entries.get(step), outcomes, started_at, finished_at))
    return tuple(outcomes)


def _outcome(step: str, entry: StepRecord | None, before: list[Outcome], started_at: str, finished_at: str) -> Outcome:
    if entry is None or any(outcome.status in BROKEN for outcome in before):
        return Outcome(step, "skipped")
    if _time(entry.started_at) >= _time(started_at):
        if entry.state == "running":
            return Outcome(step, "killed", seconds_between(entry.started_at, finished_at), record=entry)
        unchanged = step == NEVER_CACHED and entry.summary.get("decision") == "unchanged"
        return Outcome(step, entry.state, entry.seconds, unchanged, entry)
    reusable = entry.state == "succeeded" and step != NEVER_CACHED
    if reusable and all(outcome.status != "skipped" for outcome in before):
        return Outcome(step, "cached", 0.0, True, entry)
    return Outcome(step, "skipped")


def nothing_new(outcomes: tuple[Outcome, ...]) -> bool:
    """Whether every step was done by an earlier run, and push found the decision made."""
    return all(outcome.cached for outcome in outcomes)


def run_status(reported: str, outcomes: tuple[Outcome, ...]) -> RunStatus:
    """Return the status of the run: what the runner reported, corrected by what the journal knows better.

    A runner may report success for a step that failed or never ran (docs/decisions), and failure for Ctrl-C.
    """
    found = {outcome.status for outcome in outcomes}
    if reported.lower() in {"interrupted", "cancelled", "canceled"}:
        return "interrupted"
    if found & {"failed", "killed"}:
        return "failed"
    if "interrupted" in found:
        return "interrupted"
    return "succeeded" if reported.lower() == "succeeded" and "skipped" not in found else "failed"


def find_failure(status: RunStatus, outcomes: tuple[Outcome, ...], message: str) -> Failure | None:
    """Return why the run did not succeed: the broken step's own words, or the runner's message; None for a success."""
    if status == "succeeded":
        return None
    broken = next((outcome for outcome in outcomes if outcome.status in BROKEN), None)
    if broken is None:
        return _unexplained(status, outcomes, message)
    error = broken.record.error if broken.record else None
    if error is None:
        return _killed(broken)
    return Failure(broken.step, error.problem, error.cure, error.exit_code or 1, error.traceback)


def _killed(outcome: Outcome) -> Failure:
    pid = outcome.record.pid if outcome.record else 0
    problem = f"{outcome.step} ended without a word after at most {outcome.seconds:.0f} s: process {pid} was killed."
    cure = "Often that is memory: give the step more, or ask for smaller batches; then run again to go on."
    return Failure(outcome.step, problem, cure)


def _unexplained(status: RunStatus, outcomes: tuple[Outcome, ...], message: str) -> Failure:
    if status == "interrupted":
        return Failure(None, message or "The run was interrupted between two steps.", "Run again to go on.")
    skipped = [outcome.step for outcome in outcomes if outcome.status == "skipped"]
    left = f", and {', '.join(skipped)} left no record" if skipped else ""
    said = f" The runner says: {message.strip()}" if message.strip() else " The runner gives no reason."
    return Failure(
        None,
        f"The pipeline failed, but no step says why{left}.{said}",
        "Read the logs of the run's steps, or run again with --debug.",
    )


def seconds_between(start: str, end: str) -> float:
    """Return the seconds from one ISO 8601 time to another, not below 0."""
    return max(0.0, (_time(end) - _time(start)).total_seconds())


def _time(text: str) -> datetime.datetime:
    moment = datetime.datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
