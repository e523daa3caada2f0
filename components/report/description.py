"""What the exit handler is told of a run: enough to find every step's entry in the journal."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class RunDescription(BaseModel):
    """One run: its name, when it began, what it was asked to do, and the journal key of each step."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    run_id: str
    started_at: str  # ISO 8601, UTC
    config: dict[str, Any]  # the resolved RunConfig: sections run, ingest, validate, train, evaluate, push
    command: str
    work_dir: str
    keys: dict[str, str]
    versions: dict[str, str] = {}
    folder: str = ""  # where report.html and summary.json go; empty: only into the platform's own artifact
