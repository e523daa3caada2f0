"""`run`: the whole pipeline on this machine, and how it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from components.common.addresses import joined
from components.common.errors import ConfigError
from components.common.store import Location, store_at
from pipeline.commands.options import Overrides
from pipeline.commands.printing import console
from pipeline.config import RunConfig, load_config, resolve_paths
from pipeline.keys import UPSTREAM

QUICKSTART = "quickstart.toml"


def run(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="TOML file; default: configs/quickstart.toml.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default
    runner: Annotated[
        Literal["subprocess", "docker"], typer.Option(help="Steps as processes, or each in a container of deploy.image.")
    ] = "subprocess",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and the plan; write nothing.")] = False,
) -> None:
    """Run the whole pipeline on this machine."""
    loaded = load_config(config or shipped_config(QUICKSTART), overrides)
    if dry_run:
        _print_plan(loaded)
        return
    from pipeline.targets.local.run import run_locally

    summary = run_locally(loaded, console(), runner)
    print_outcome(summary, Path(loaded.run.dir) / str(summary["run_id"]))
    raise typer.Exit(int(summary["exit_code"]))


def shipped_config(name: str) -> Path:
    """Return a config that ships with the program, from the checkout or from the installed package."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / "configs", package / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"This installation lacks {name}.", "Name a config file.")


def print_outcome(summary: dict[str, Any], folder: Location) -> None:
    """Print the error of a run, or its scores and decision, and the paths of its report and log."""
    out = console()
    if error := summary["error"]:
        step = f" in {error['step']}" if error["step"] else ""
        out.print(f"\n[bold red]{summary['status']}[/]{step}:", end=" ")
        out.print(f"{error['problem']} {error['cure']}", markup=False)
    else:
        _print_success(out, summary)
    names = store_at(folder).names()
    for title, name in (("Report", "report.html"), ("Summary", "summary.json"), ("Log", "run.log")):
        if name in names:  # the logs of a run on a platform stay there
            out.print(f"{title:<8} {joined(folder, name)}", markup=False)


def _print_success(out: Console, summary: dict[str, Any]) -> None:
    from components.evaluate.metrics.table import metrics_on  # imports NumPy, which --help does not need

    scores, push = summary["evaluate"], summary["push"]
    cached = [step for step, row in summary["steps"].items() if row["cached"]]
    if summary.get("nothing_new"):
        out.print("\nNothing new: an earlier run had the same data, configuration and code.", markup=False)
    elif cached:
        out.print(f"\nTaken from the cache: {', '.join(cached)}.", markup=False)
    shown = (f"{metric.title} {metric.text(scores)}" for metric in metrics_on("console"))
    out.print(f"\n{' · '.join(shown)}", markup=False)
    out.print(f"{str(push['decision']).capitalize()}: {push['reason']}", markup=False)
    if summary.get("note"):
        out.print(str(summary["note"]), markup=False)


def _print_plan(config: RunConfig) -> None:
    resolved = resolve_paths(config)
    print(json.dumps(resolved.as_dict(), indent=2))
    print("\nPlan (nothing was run or written):")
    for step in resolved.sections():
        after = f" after {', '.join(UPSTREAM[step])}" if UPSTREAM[step] else f" from {resolved.ingest.source}"
        print(f"  {step}{after}")
    print(f"  report in any case, in {resolved.run.dir}/<id>/")
