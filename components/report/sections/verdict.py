"""The first thing a reader sees: what became of the run, and whether its model can be trusted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from components.report.outcomes import Failure, Outcome, RunStatus, nothing_new

Tone = Literal["good", "warn", "bad", "neutral"]


@dataclass(frozen=True)
class Verdict:
    """The headline: its colour, a few words, the reason; for an error cure and traceback."""

    tone: Tone
    title: str
    reason: str
    cure: str = ""
    traceback: str = ""
    where: str = ""


def reach_verdict(status: RunStatus, outcomes: tuple[Outcome, ...], failure: Failure | None) -> Verdict:
    """Return the headline of a run."""
    if failure is not None:
        return _failed(status, outcomes, failure)
    summaries = {outcome.step: outcome.record.summary if outcome.record else {} for outcome in outcomes}
    decided = _decided(summaries.get("push", {}))
    if not nothing_new(outcomes):
        return decided
    return replace(decided, title=decided.title.replace("Unchanged", "Nothing new", 1))


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
    decision, version, champion = (str(push.get(name) or "") for name in ("decision", "version", "champion"))
    serves = f"{champion} stays in service" if champion else "nothing is in service"
    tone: Tone = "neutral"
    if decision == "published":
        tone, title = "good", f"Published as {version}"
    elif decision == "kept":
        tone, title = "warn", f"Not published: {serves}"
    elif decision == "unchanged" and version and version == champion:
        title = f"Unchanged: {version} is this model and in service"
    elif decision == "unchanged":
        title = f"Unchanged: {serves}"
    else:
        tone, title = "warn", f"Decision: {decision or 'none recorded'}"
    return Verdict(tone, title, str(push.get("reason", "")), where=str(push.get("uri") or ""))
