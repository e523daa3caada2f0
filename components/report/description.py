"""The description of a run that the exit handler receives; it names every step's entry in the journal."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from components.common.section import Frozen


class RunDescription(Frozen):
    """A run: its name, its start, its configuration, and the journal key of each step."""

    run_id: str
    started_at: str  # ISO 8601, UTC
    config: dict[str, Any]  # the resolved RunConfig: sections run, ingest, validate, train, evaluate, gate, push
    command: str
    work_dir: str
    keys: dict[str, str]
    versions: dict[str, str] = Field({})
    folder: str = ""  # of report.html and summary.json; a compiled pipeline knows it only in its step report
