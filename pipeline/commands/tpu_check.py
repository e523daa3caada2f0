"""`tpu-check`: the result of components.tpu_check, as a table or as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table

from components.common.command import explain
from components.common.errors import ConfigError
from components.common.store import store_at
from components.tpu_check.config import TpuCheckConfig
from pipeline.commands.options import ConfigFile, Overrides
from pipeline.commands.printing import console
from pipeline.config import load_config


def tpu_check(
    config: ConfigFile,
    topology: Annotated[str, typer.Option(help="Slice, such as v5e:2x4 or v4:2x2x1; default: deploy.tpu_topology.")] = "",
    overrides: Overrides = [],  # noqa: B006 - typer reads the default
    images: Annotated[int, typer.Option(min=0, help="Number of training images; 0: unknown.")] = 0,
    classes: Annotated[int, typer.Option(min=2, help="Number of labels, with train.conditional.")] = 10,
    execute: Annotated[
        int | None,
        typer.Option(
            min=0, max=1000, help="Rounds to execute on virtual replicas and compare; default: deploy.tpu_check_rounds."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile the training for a TPU without one: whether it compiles and fits, and how fast it can be at most.

    With --execute, also run the program on virtual replicas of this machine: whether it trains as the CPU does.
    """
    from components.tpu_check import run
    from components.tpu_check.errors import ExecutionRefusedError, ProgramRefusedError
    from components.tpu_check.report import rows

    loaded = load_config(config, overrides)
    try:
        section = loaded.for_tpu_check(topology).model_copy(update={"images": images, "classes": classes})
        if execute is not None:
            section = section.model_copy(update={"execute_rounds": execute})
    except ValidationError as error:
        raise ConfigError(explain(error, TpuCheckConfig).replace("topology", "--topology", 1)) from None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # progress lines; stdout is for the result
            summary = run.check(section, store_at(loaded.work_dir, run.CACHE))
    except ProgramRefusedError as error:
        if not as_json:
            raise
        refused = {
            "topology": section.topology,
            "compiled": isinstance(error, ExecutionRefusedError),
            "reason": error.problem,
            "cure": error.cure,
        }
        print(json.dumps(refused, indent=1))
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print(summary.model_dump_json(indent=1))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in rows(summary):
        table.add_row(f"[bold]{name}[/]", value)
    console().print(table)
    for note in summary.notes:
        console().print(f"[yellow]note[/] {note}")
