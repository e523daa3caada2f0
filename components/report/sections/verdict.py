"""The headline of the page: how the run ended, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from components.report.summary import RunSummary

Tone = Literal["good", "warn", "bad", "neutral"]


@dataclass(frozen=True)
class RunVerdict:
    """The headline: its colour, title and reason; the URI of a published model; cure and traceback of an error."""

    tone: Tone
    title: str
    reason: str
    cure: str = ""
    traceback: str = ""
    uri: str = ""


def run_verdict(summary: RunSummary) -> RunVerdict:
    """Return the headline of a run that has ended."""
    failure = summary.error
    if failure is None:
        verdict = _decided(summary.push or {})
        return replace(verdict, title=verdict.title.replace("Unchanged", "Nothing new", 1)) if summary.nothing_new else verdict
    if failure.step is None:
        title = "The run was interrupted" if summary.status == "interrupted" else "The run failed"
    else:
        status = summary.steps[failure.step].status
        title = f"{failure.step} {status if status == 'failed' else f'was {status}'}"
    tone: Tone = "warn" if summary.status == "interrupted" else "bad"
    return RunVerdict(tone, title, failure.problem, failure.cure, failure.traceback)


def _decided(push: dict[str, Any]) -> RunVerdict:
    """Return the headline of a successful run from the summary of push."""
    decision, version, champion = (str(push.get(name) or "") for name in ("decision", "version", "champion"))
    in_service = f"{champion} stays in service" if champion else "no model is in service"
    tone: Tone = "neutral"
    if decision == "published":
        tone, title = "good", f"Published as {version}"
    elif decision == "kept":
        tone, title = "warn", f"Not published: {in_service}"
    elif decision == "unchanged" and version and version == champion:
        title = f"Unchanged: this model is {version}, which is in service"
    elif decision == "unchanged":
        title = f"Unchanged: {in_service}"
    else:
        tone, title = "warn", f"Decision: {decision or 'none recorded'}"
    return RunVerdict(tone, title, str(push.get("reason", "")), uri=str(push.get("uri") or ""))
