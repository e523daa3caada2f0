"""Runs for the tests of the report with a real validate step and a history."""

from __future__ import annotations

from pathlib import Path

from components.common.errors import DataRejectedError
from components.report.description import RunDescription
from components.validate.config import ValidateConfig
from components.validate.run import run as validate
from tests.support.datasets.snapshots import brighter, digits, write_snapshot
from tests.support.report_runs import Run


def judged(root: Path, *, changed: bool, history: str = "history") -> tuple[Run, RunDescription]:
    """Return a run with a real validate step, compared with a history of the digits; without one if `history` is empty."""
    config = ValidateConfig(history=history if "://" in history or not history else str(root / history))
    if history:
        write_snapshot(root / "before", *digits())
        validate(config, dataset=root / "before", out=root / "out-before")
    made = Run(root, brighter(digits()[0]) if changed else digits()[0])
    made.ingest()
    try:
        made.record("validate", lambda: validate(config, dataset=made.out("ingest"), out=made.out("validate")), "ingest")
    except DataRejectedError:
        assert changed
    told = made.description
    return made, told.model_copy(update={"config": told.config | {"validate": config.model_dump(mode="json")}})
