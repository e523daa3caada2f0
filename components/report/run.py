"""The exit handler: writes summary.json and report.html of a run, also of one that failed."""

from __future__ import annotations

from components.common.artifacts import json_bytes
from components.common.store import Location, store_at
from components.report.description import RunDescription
from components.report.page import Page
from components.report.rendering import render
from components.report.summary import RunSummary, read_run


def run(description: RunDescription, *, folder: Location, status: str, message: str = "") -> RunSummary:
    """Write folder/summary.json and folder/report.html, and return the summary.

    `status` and `message` are the runner's words, such as "succeeded", "interrupted", "COMPLETE" or "". What the steps
    recorded decides how the run ended (outcomes.run_status). Raises ArtifactError only if `folder` cannot be written.
    """
    summary, outcomes, notes = read_run(description, status, message)
    # The summary is written first: programs that wait for it must get it even if drawing the page fails.
    store = store_at(folder)
    store.write("summary.json", [json_bytes(summary.model_dump(mode="json", by_alias=True))], sync=True)
    page = Page(description, summary, outcomes, notes)
    store.write("report.html", [render("report.html.j2", page).encode()], sync=True)
    return summary
