"""The exit handler: writes summary.json and report.html of a run, also of one that failed."""

from __future__ import annotations

from pathlib import Path

from components.common.artifacts import now, write_json, write_text
from components.report.description import RunDescription
from components.report.outcomes import contradiction, derive_outcomes, find_failure, read_entries, run_status
from components.report.page import Page
from components.report.rendering import render
from components.report.summary import RunSummary, summarize


def run(description: RunDescription, *, folder: Path, status: str, message: str = "") -> RunSummary:
    """Write folder/summary.json and folder/report.html, and return the summary.

    `status` and `message` are the runner's words, such as "succeeded", "interrupted", "COMPLETE" or "". What the steps
    recorded decides how the run ended (outcomes.run_status). Raises ArtifactError only if `folder` cannot be written.
    """
    finished_at = now()
    entries, notes = read_entries(description)
    outcomes = derive_outcomes(entries, description.started_at, finished_at, description.keys)
    corrected = run_status(status, outcomes)
    failure = find_failure(corrected, outcomes, message)
    note = contradiction(status, corrected)
    summary = summarize(description, outcomes, corrected, failure, finished_at, note)
    # The summary is written first: programs that wait for it must get it even if drawing the page fails.
    write_json(Path(folder) / "summary.json", summary.model_dump(mode="json", by_alias=True))
    page = Page(description, summary, outcomes, failure, [*([note] if note else []), *notes])
    write_text(Path(folder) / "report.html", render("report.html.j2", page))
    return summary
