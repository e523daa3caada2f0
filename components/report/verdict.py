"""The first thing a reader sees: what became of the run, and whether its model can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from components.report.outcomes import Failure, Outcome, RunStatus

Tone = Literal["good", "warn", "bad", "neutral"]

DECISIONS: dict[str, tuple[Tone, str]] = {
    "published": ("good", "Published"),
    "unchanged": ("neutral", "Unchanged: this model is in service already"),
    "rejected": ("warn", "Not published"),
}


@dataclass(frozen=True)
class Verdict:
    """The headline: its colour, a few words, the reason, the cure, and for an error its traceback."""

    tone: Tone
    title: str
    reason: str
    cure: str = ""
    traceback: str = ""


def reach_verdict(status: RunStatus, outcomes: tuple[Outcome, ...], failure: Failure | None) -> Verdict:
    """Return the headline of a run."""
    if failure is not None:
        return _failed(status, outcomes, failure)
    summaries = {outcome.step: outcome.record.summary if outcome.record else {} for outcome in outcomes}
    return _decided(summaries.get("push", {}))


def _failed(status: RunStatus, outcomes: tuple[Outcome, ...], failure: Failure) -> Verdict:
    where = {outcome.step: outcome.status for outcome in outcomes}.get(failure.step or "", "")
    if failure.step is None:
        title = "The run was interrupted" if status == "interrupted" else "The run failed"
    else:
        words = {"failed": "failed", "killed": "was killed", "interrupted": "was interrupted"}
        title = f"{failure.step} {words.get(where, 'failed')}"
    tone: Tone = "warn" if status == "interrupted" else "bad"
    return Verdict(tone, title, failure.problem, failure.cure, failure.traceback)


def _decided(push: dict[str, Any]) -> Verdict:
    decision = str(push.get("decision", ""))
    tone, title = DECISIONS.get(decision, ("warn", f"Decision: {decision or 'none recorded'}"))
    if decision == "published" and push.get("version"):
        title = f"Published as version {push['version']}"
    return Verdict(tone, title, str(push.get("reason", "")))
