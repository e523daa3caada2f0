"""`tpu-check`: what components.tpu_check finds, as a table or as JSON."""

from __future__ import annotations

import contextlib
import json
import sys

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from components.common.command import explain
from components.common.errors import ConfigError
from components.tpu_check import run
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.errors import ProgramRefusedError
from components.tpu_check.report import TpuCheckSummary, rows
from pipeline.config import RunConfig


def check_config(config: RunConfig, topology: str, images: int, classes: int) -> TpuCheckConfig:
    """Return what to check. Raises ConfigError for a slice that does not exist."""
    try:
        section = config.for_tpu_check(topology)
    except ValidationError as error:
        raise ConfigError(explain(error, TpuCheckConfig).replace("topology", "--topology", 1)) from None
    return section.model_copy(update={"images": images, "classes": classes})


def check(config: RunConfig, topology: str, images: int, classes: int, as_json: bool) -> int:
    """Check a training and print what was found; return 0 when it compiled and 1 when it was refused.

    Raises ConfigError for what does not fit together, CompilerMissingError where the compiler is not installed.
    """
    section = check_config(config, topology, images, classes)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what the check says meanwhile; stdout is for the result
            summary = run.check(section, config.work_dir / "tpu_check")
    except ProgramRefusedError as error:
        if not as_json:
            raise
        refused = {"topology": section.topology, "compiled": False, "reason": error.problem, "cure": error.cure}
        print(json.dumps(refused, indent=1))
        return error.exit_code
    print(summary.model_dump_json(indent=1)) if as_json else show(summary)
    return 0


def show(summary: TpuCheckSummary) -> None:
    """Print the report as a table."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for what, value in rows(summary):
        table.add_row(f"[bold]{what}[/]", value)
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    console.print(table)
    for note in summary.notes:
        console.print(f"[yellow]note[/] {note}")
