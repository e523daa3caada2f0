"""`run`: the whole pipeline on this machine, and how it ended."""

from __future__ import annotations

import functools
import json
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from components.common.addresses import joined
from components.common.errors import ConfigError
from components.common.store import Location, store_at
from pipeline.commands.options import Overrides, with_parameters
from pipeline.commands.printing import console
from pipeline.config import RunConfig, load_config, resolve_paths, shipped_config
from pipeline.keys import UPSTREAM

QUICKSTART = "quickstart.toml"


@with_parameters
def run(
    parameters: list[str],
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="TOML file; default: configs/quickstart.toml.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default
    runner: Annotated[
        Literal["subprocess", "docker"], typer.Option(help="Steps as processes, or each in a container of deploy.image.")
    ] = "subprocess",
    images: Annotated[
        str,
        typer.Option(
            metavar="LOCATION", help="Folder, archive, list or URL of images: look at them and choose the configuration."
        ),
    ] = "",
    minutes: Annotated[
        float | None, typer.Option(min=0.1, show_default="10", help="With --images: minutes of training.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and the plan; write nothing.")] = False,
) -> None:
    """Run the whole pipeline on this machine."""
    lines: list[str] = []
    if images:
        loaded, lines = _config_for_images(config, images, minutes or 10.0, [*parameters, *overrides])
    elif minutes:
        raise ConfigError("--minutes needs --images.", "Without it, use --set train.rounds=N.")
    else:
        loaded = load_config(config or shipped_config(QUICKSTART), [*parameters, *overrides])
    if dry_run:
        _print_plan(loaded)
        return
    from pipeline.targets.local.run import run_locally

    summary = run_locally(loaded, console(), runner, lines)
    folder = Path(loaded.run.dir) / str(summary["run_id"])
    print_outcome(summary, folder)
    if images:
        print(f"Repeat   wgan-pipeline run {shlex.quote(str(folder / 'config.toml'))}")
    raise typer.Exit(int(summary["exit_code"]))


def _config_for_images(config: Path | None, location: str, minutes: float, overrides: list[str]) -> tuple[RunConfig, list[str]]:
    """Look at the images and print what was chosen; return the configuration and the printed lines."""
    if config:
        raise ConfigError(f"--images chooses the configuration, and {config} is one too.", "Use one of them, and --set.")
    from pipeline.images.configure import configure  # imports NumPy and Pillow

    return configure(location, minutes, overrides, functools.partial(console().print, markup=False))


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
