"""The exit handler's work: summary.json and report.html of a run, also of one that failed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

from components.common.artifacts import now, write_json, write_text
from components.report import formatting
from components.report.description import RunDescription
from components.report.outcomes import derive_outcomes, find_failure, read_entries, run_status
from components.report.page import Page, gather_page
from components.report.summary import RunSummary, summarize

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE, STYLE = "report.html.j2", "report.css"


def run(description: RunDescription, *, folder: Path, status: str, message: str = "") -> RunSummary:
    """Write folder/summary.json and folder/report.html, and return the summary.

    `status` ("succeeded", "failed" or "interrupted") and `message` are the runner's. The journal corrects the status,
    since a runner may call a step that failed a success. Raises ArtifactError only when `folder` cannot be written.
    """
    finished_at = now()
    entries, notes = read_entries(description)
    outcomes = derive_outcomes(entries, description.started_at, finished_at, description.keys)
    corrected = run_status(status, outcomes)
    failure = find_failure(corrected, outcomes, message)
    summary = summarize(description, outcomes, corrected, failure, finished_at)
    # First the summary: a program that waits for it must get it even if drawing the page should go wrong.
    write_json(Path(folder) / "summary.json", summary.model_dump(mode="json", by_alias=True))
    write_text(Path(folder) / "report.html", render(gather_page(description, summary, outcomes, failure, notes)))
    return summary


def render(page: Page) -> str:
    """Return the page as one HTML document that refers to nothing outside itself; every value is escaped."""
    return environment().get_template(TEMPLATE).render(page=page, style=style(), words=formatting)


@cache
def environment() -> jinja2.Environment:
    """Return what loads this folder's templates; every value they show is escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def style() -> str:
    """Return the style sheet of all pages."""
    return (TEMPLATES / STYLE).read_text()
