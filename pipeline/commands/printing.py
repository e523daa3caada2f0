"""What the command line prints of plans, runs and outcomes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from components.common.errors import ConfigError
from components.report.description import RunDescription
from pipeline.config import RunConfig, resolve_paths
from pipeline.keys import UPSTREAM
from pipeline.targets.local import process


def console() -> Console:
    """Return the console of stdout; a pipe or a file gets plain lines of any length."""
    return Console(file=sys.stdout, soft_wrap=not sys.stdout.isatty(), highlight=False)


def plan(config: RunConfig) -> None:
    """Print the resolved config and what would run."""
    resolved = resolve_paths(config)
    print(json.dumps(resolved.as_dict(), indent=2))
    print("\nPlan (nothing was run or written):")
    for step in resolved.sections():
        after = f" after {', '.join(UPSTREAM[step])}" if UPSTREAM[step] else f" from {resolved.ingest.source}"
        print(f"  {step}{after}")
    print(f"  report, whatever happens, into {resolved.run.dir}/<id>/")


def outcome(summary: dict[str, Any], folder: Path) -> None:
    """Print how a run ended: what failed and how to mend it, or scores and decision; and where the report is."""
    out = console()
    if summary["error"]:
        error = summary["error"]
        where = f" in {error['step']}" if error["step"] else ""
        out.print(f"\n[bold red]{summary['status']}[/]{where}:", end=" ")
        out.print(f"{error['problem']} {error['cure']}", markup=False)
    else:
        _print_success(out, summary)
    out.print(f"Report   {folder / 'report.html'}", markup=False)
    out.print(f"Summary  {folder / 'summary.json'}", markup=False)
    out.print(f"Log      {folder / 'run.log'}", markup=False)


def _print_success(out: Console, summary: dict[str, Any]) -> None:
    scores, push = summary["evaluate"], summary["push"]
    cached = [step for step, row in summary["steps"].items() if row["cached"]]
    if summary.get("nothing_new"):
        out.print("\nNothing new: the data, the configuration and the code are those of an earlier run.", markup=False)
    elif cached:
        out.print(f"\nAlready done, not repeated: {', '.join(cached)}.", markup=False)
    out.print(f"\nFID {scores['fid']:.3f} · KID {scores['kid']:.5f} ± {scores['kid_std']:.5f}", markup=False)
    out.print(f"{str(push['decision']).capitalize()}: {push['reason']}", markup=False)


def runs(runs_dir: Path) -> None:
    """Print a table of the runs in `runs_dir`, newest first."""
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "status", "rounds", "FID", "KID", "decision", "seconds"):
        table.add_column(heading, justify="right" if heading in {"rounds", "FID", "KID", "seconds"} else "left")
    folders = sorted(file.parent for file in runs_dir.glob("*/run.json") if not file.parent.is_symlink())
    for folder in reversed(folders):
        table.add_row(*_row_of(folder))
    console().print(table) if folders else print(f"No runs in {runs_dir} yet: wgan-pipeline run")


def _row_of(folder: Path) -> list[str]:
    try:
        return _row(json.loads((folder / "summary.json").read_bytes()))
    except FileNotFoundError:
        return [folder.name, process.state(folder)]
    except (OSError, ValueError, KeyError):
        return [folder.name, "damaged"]


def _row(summary: dict[str, Any]) -> list[str]:
    train, scores, push = (summary[step] or {} for step in ("train", "evaluate", "push"))
    return [
        summary["run_id"],
        summary["status"],
        str(train.get("rounds", "")),
        f"{scores['fid']:.3f}" if scores else "",
        f"{scores['kid']:.5f}" if scores else "",
        push.get("decision", ""),
        f"{summary['seconds']:.1f}",
    ]


def report(folder: Path) -> None:
    """Print how a run ended and where its report is; write the report of a run that was killed before it could.

    Raises ConfigError when there is no such run.
    """
    try:
        description = RunDescription.model_validate_json((folder / "run.json").read_bytes())
    except (OSError, ValidationError):
        raise ConfigError(f"There is no run in {folder}.", "wgan-pipeline runs lists them.") from None
    if not (folder / "summary.json").is_file():
        from components.report.run import run as write_report

        write_report(description, folder=folder, status="failed", message="The run itself was killed, or still goes on.")
    outcome(json.loads((folder / "summary.json").read_text()), folder)


def comparison(runs_dir: Path, first: str, second: str) -> Path:
    """Write the page that puts two runs side by side and return where it is. Raises ConfigError where one is no run."""
    from components.report.comparison import write_comparison

    ours, theirs = ((runs_dir / name).resolve() for name in (first, second))  # `latest` under its own name
    out = runs_dir / f"compare-{ours.name}-{theirs.name}.html"
    write_comparison(ours, theirs, out)
    return out
