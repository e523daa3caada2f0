"""`tpu-first-hour`: what only a real TPU can show, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from components.common.command import explain
from components.common.errors import ConfigError
from components.train.config import TrainConfig
from pipeline.commands.printing import console
from pipeline.config import load_config, shipped_config

CELEBA_IMAGES = 162_770


def tpu_first_hour(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder for the report and the logs.")],
    devices: Annotated[str, typer.Option(help="tpu, or cpu:N to try the command itself without a TPU.")] = "tpu",
    tpu_check: Annotated[
        Path | None, typer.Option(help="Report of tpu-check configs/celeba64.toml --json, to compare the speed with.")
    ] = None,
) -> None:
    """Try a TPU: compare its training with a CPU's, stop and resume it, and measure its speed; about half an hour."""
    from components.tpu_check.first_hour.run import StageResult, first_hour, outcome
    from components.tpu_check.first_hour.stages import Hour
    from components.tpu_check.report import TpuCheckSummary

    try:
        TrainConfig(devices=devices)
    except ValidationError as error:
        raise ConfigError(explain(error, TrainConfig).replace("devices", "--devices", 1)) from None
    big = load_config(shipped_config("celeba64.toml")).for_tpu_check().model_copy(update={"images": CELEBA_IMAGES})
    try:
        bound = TpuCheckSummary.model_validate_json(tpu_check.read_bytes()) if tpu_check else None
    except (OSError, ValidationError):
        raise ConfigError(f"{tpu_check} is not a report of tpu-check --json.", "Write one, or leave --tpu-check out.") from None
    out_console = console()

    def show(stage: StageResult) -> None:
        colour = {"passed": "green", "failed": "bold red"}.get(stage.status, "yellow")
        out_console.print(f"[{colour}]{stage.status}[/] {stage.name}: {stage.title} ({stage.seconds:.0f} s)")
        for name, value in stage.facts.items():
            out_console.print(f"   {name}: {value}", markup=False)
        for problem in stage.problems:
            out_console.print(f"   {problem}", markup=False, style="red")

    report = first_hour(Hour(devices, out.resolve(), big, bound), show)
    out_console.print(f"{outcome(report).replace('**', '')} The report is {out / 'first_hour.md'}.", markup=False)
    raise typer.Exit(0 if report.passed else 1)
