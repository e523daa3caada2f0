"""`runs` and `report`: the runs on this machine, how each ended, and two side by side."""

from __future__ import annotations

import contextlib
import datetime
import json
import shlex
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table

from components.common.addresses import is_address, joined, local_path
from components.common.artifacts import write_bytes
from components.common.errors import ConfigError
from components.common.store import store_at
from components.report.description import RunDescription
from pipeline.commands.options import RunsDir
from pipeline.commands.printing import console
from pipeline.commands.run import print_outcome
from pipeline.targets.local import process

if TYPE_CHECKING:
    from components.evaluate.metrics.metric import Metric

READERS = 16  # at once, of the small files of runs at a URL


def runs(runs_dir: RunsDir = "runs") -> None:
    """List the runs with their scores and decisions, newest first."""
    from components.evaluate.metrics.table import metrics_on  # imports NumPy, which --help does not need

    table = Table(box=None, pad_edge=False)
    metrics = metrics_on("console")
    for heading in ("run", "status", "rounds", *(metric.title for metric in metrics), "decision", "seconds"):
        table.add_column(heading, justify="left" if heading in {"run", "status", "decision"} else "right")
    with local_runs(runs_dir) as local:
        folders = newest_first(local)
        for folder in folders:
            table.add_row(*_row_of(folder, metrics))
    console().print(table) if folders else print(f"No runs in {runs_dir} yet: wgan-pipeline run")


def report(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, or latest.")] = "latest",
    compare: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Write a page that compares two finished runs.")
    ] = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Print how a run ended and where its report is, or compare two runs."""
    with local_runs(runs_dir) as local:
        if not compare:
            _print_run(_resolved(local / run_id), runs_dir)
            return
        from components.report.comparison import write_comparison

        first, second = (_resolved(local / name) for name in compare)
        name = f"compare-{first.name}-{second.name}.html"
        write_comparison(first, second, local / name)
        if is_address(runs_dir):
            store_at(runs_dir).write(name, [(local / name).read_bytes()])
        print(f"Comparison {joined(runs_dir, name)}")


@contextlib.contextmanager
def local_runs(runs_dir: str) -> Iterator[Path]:
    """Yield the folder of the runs, or a temporary one with run.json and summary.json of each run at a URL."""
    if not is_address(runs_dir):
        yield Path(local_path(runs_dir))
        return
    store = store_at(runs_dir)
    with tempfile.TemporaryDirectory(prefix="runs-") as temporary, ThreadPoolExecutor(READERS) as readers:

        def copy(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):  # not a run, or one that has not ended
                for file in (f"{name}/run.json", f"{name}/summary.json"):
                    write_bytes(Path(temporary) / file, store.read(file))

        list(readers.map(copy, store.names()))
        yield Path(temporary)


def newest_first(local: Path) -> list[Path]:
    """Return the folders of runs, sorted by their start."""
    folders = [file.parent for file in local.glob("*/run.json") if not file.parent.is_symlink()]
    return sorted(folders, key=_started_at, reverse=True)


def _resolved(folder: Path) -> Path:
    """Return the folder of a run; of the newest one for `latest` where there is no link of this name, as at a URL."""
    if folder.name != "latest" or folder.exists():
        return folder.resolve()
    return next(iter(newest_first(folder.parent)), folder)


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


def _print_run(folder: Path, runs_dir: str) -> None:
    """Print the outcome of a run; first write the report of a run that was killed before it could write one."""
    location = joined(runs_dir, folder.name)
    try:
        description = RunDescription.model_validate_json((folder / "run.json").read_bytes())
    except (OSError, ValidationError):
        raise ConfigError(f"There is no run in {location}.", "wgan-pipeline runs lists them.") from None
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except FileNotFoundError:
        state = process.state(folder)
        if state != "killed":
            unknown = "has no report: it is still running, or was killed before its end"
            how = "is still running" if state == "running" else unknown
            print(f"Run {folder.name} {how}. Watch it: wgan-pipeline watch {folder.name} --runs-dir {shlex.quote(runs_dir)}")
            return
        from components.report.run import run as write_report

        written = write_report(description, folder=location, status="", message="The run was killed.")
        summary = written.model_dump(mode="json", by_alias=True)
    print_outcome(summary, location)
