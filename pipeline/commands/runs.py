"""`runs` and `report`: the runs on this machine, how each ended, and two side by side."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table

from components.common.errors import ConfigError
from components.report.description import RunDescription
from pipeline.commands.options import RunsDir
from pipeline.commands.printing import console
from pipeline.commands.run import print_outcome
from pipeline.targets.local import process

if TYPE_CHECKING:
    from components.evaluate.metrics.metric import Metric


def runs(runs_dir: RunsDir = Path("runs")) -> None:
    """List the runs with their scores and decisions, newest first."""
    from components.evaluate.metrics.table import metrics_on  # imports NumPy, which --help does not need

    table = Table(box=None, pad_edge=False)
    metrics = metrics_on("console")
    for heading in ("run", "status", "rounds", *(metric.title for metric in metrics), "decision", "seconds"):
        table.add_column(heading, justify="left" if heading in {"run", "status", "decision"} else "right")
    folders = [file.parent for file in runs_dir.glob("*/run.json") if not file.parent.is_symlink()]
    for folder in sorted(folders, key=_started_at, reverse=True):
        table.add_row(*_row_of(folder, metrics))
    console().print(table) if folders else print(f"No runs in {runs_dir} yet: wgan-pipeline run")


def report(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, or latest.")] = "latest",
    compare: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Write a page that compares two finished runs.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Print how a run ended and where its report is, or compare two runs."""
    if compare:
        from components.report.comparison import write_comparison

        first, second = ((runs_dir / name).resolve() for name in compare)  # resolves `latest`
        out = runs_dir / f"compare-{first.name}-{second.name}.html"
        write_comparison(first, second, out)
        print(f"Comparison {out}")
    else:
        _print_run(runs_dir / run_id)


def _started_at(folder: Path) -> tuple[str, str]:
    """Return what runs are sorted by: the start in UTC, then the name; runs on platforms have names without a time."""
    try:
        started = RunDescription.model_validate_json((folder / "run.json").read_bytes()).started_at
        moment = datetime.datetime.fromisoformat(started)
    except (OSError, ValueError):
        return "", folder.name
    return moment.astimezone(datetime.UTC).isoformat(), folder.name


def _row_of(folder: Path, metrics: tuple[Metric, ...]) -> list[str]:
    try:
        return _finished_row(json.loads((folder / "summary.json").read_bytes()), metrics)
    except FileNotFoundError:
        return [folder.name, process.state(folder)]
    except (OSError, ValueError, KeyError):
        return [folder.name, "damaged"]


def _finished_row(summary: dict[str, Any], metrics: tuple[Metric, ...]) -> list[str]:
    train, scores, push = (summary[step] or {} for step in ("train", "evaluate", "push"))
    return [
        summary["run_id"],
        summary["status"],
        str(train.get("rounds", "")),
        *(metric.text({metric.name: scores.get(metric.name)}) for metric in metrics),  # without the error: it must fit a line
        push.get("decision", ""),
        f"{summary['seconds']:.1f}",
    ]


def _print_run(folder: Path) -> None:
    """Print the outcome of a run; first write the report of a run that was killed before it could write one."""
    try:
        description = RunDescription.model_validate_json((folder / "run.json").read_bytes())
    except (OSError, ValidationError):
        raise ConfigError(f"There is no run in {folder}.", "wgan-pipeline runs lists them.") from None
    if not (folder / "summary.json").is_file():
        from components.report.run import run as write_report

        write_report(description, folder=folder, status="", message="The run was killed, or is still running.")
    print_outcome(json.loads((folder / "summary.json").read_text()), folder)
