"""`submit` and `schedule`: what the command line does on a platform, and what it prints of that."""

from __future__ import annotations

import contextlib
import datetime
import functools
import inspect
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.table import Table

from components.common.errors import ConfigError
from pipeline.config import RunConfig, load_config
from pipeline.cron import Cron, parse_cron

if TYPE_CHECKING:
    from pipeline.targets.runs import Outcome, Scheduled, Submitted

NAME = "wgan-tpu-pipeline"
app = typer.Typer(help="Retrain on a schedule: create, list, pause, resume, delete.", no_args_is_help=True)
Config = Annotated[Path, typer.Argument(help="TOML file, or what compile made of it.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one key; repeatable.")]
Target = Annotated[str, typer.Option(help="kubeflow or vertex.")]
Host = Annotated[
    str, typer.Option(help="Kubeflow Pipelines: https://HOST/pipeline or a port-forward's. Vertex: an endpoint of one's own.")
]
TokenFile = Annotated[
    Path | None, typer.Option(help="Kubeflow: file with the bearer token; it is read anew when it is refused.")
]
Namespace = Annotated[str, typer.Option(help="Kubeflow: the namespace, where it has many users.")]
Project = Annotated[str, typer.Option(help="Vertex: the Google Cloud project.")]
Region = Annotated[str, typer.Option(help="Vertex: where runs are, such as europe-west4.")]
Experiment = Annotated[str, typer.Option(help="The experiment that runs belong to; on Vertex a label.")]
Zone = Annotated[str, typer.Option(help="Time zone of the schedule.")]
ClusterZone = Annotated[str, typer.Option(help="Kubeflow: the zone it reads schedules in (CRON_SCHEDULE_TIMEZONE).")]


class Platform(Protocol):
    """What can be done on a platform. Raises RemoteError when it refuses or cannot be reached."""

    place: str

    def submit(self, file: Path, name: str, experiment: str, config: RunConfig) -> Submitted:
        """Start a run of the compiled `file`; `name` must be of this run alone."""

    def wait(self, run_id: str, tell: Callable[[str], None]) -> Outcome:
        """Wait until a run has ended and return how; `tell` gets a line for each step whose state changes."""

    def get(self, run_id: str) -> Submitted:
        """Return a run."""

    def schedule(self, name: str) -> Scheduled | None:
        """Return the schedule of a name."""

    def schedules(self) -> list[Scheduled]:
        """Return all schedules."""

    def make_schedule(
        self, file: Path, name: str, experiment: str, config: RunConfig, cron: Cron, start: str | None, end: str | None
    ) -> Scheduled:
        """Make a schedule: one run at a time, and none made up for those that were missed."""

    def switch(self, schedule: Scheduled, *, on: bool) -> None:
        """Resume or pause a schedule."""

    def delete_schedule(self, schedule: Scheduled) -> None:
        """Remove a schedule."""


def submit(source: Path, overrides: list[str], where: Where, *, experiment: str, name: str, wait: bool) -> int:
    """Compile, connect, upload, start and (with `wait`) follow a run; return the exit code.

    `source` is a config, or a file that was compiled from one. Raises ConfigError before anything is asked, RemoteError when
    the platform refuses or cannot be reached.
    """
    with _compiled(source, overrides, where.target) as (file, config):
        client = where.connect()
        run = client.submit(file, _own_name(name), experiment, config)
    print(f"Run {run.name}: {run.link}")
    return follow(client, run.run_id) if wait else 0


def follow(client: Platform, run_id: str) -> int:
    """Wait for a run, a line for each step that changes; return the exit code of what became of it."""
    outcome = client.wait(run_id, lambda line: print(f"  {line}", flush=True))
    link = client.get(run_id).link
    if outcome.succeeded:
        print(f"Succeeded: {link}")
        return 0
    failed = f" in {', '.join(outcome.failed)}" if outcome.failed else ""
    message = f": {outcome.message.splitlines()[0]}" if outcome.message else ""
    print(f"{outcome.state.capitalize()}{failed}{message}. The step's log says why: {link}")
    return 1


def compiler(target: str) -> Callable[[RunConfig, Path], None]:
    """Return what compiles for a target. Raises ConfigError for one that is unknown."""
    from pipeline.targets.kubeflow import compiler as kubeflow
    from pipeline.targets.vertex import compiler as vertex

    targets = {"kubeflow": kubeflow.compile_pipeline, "vertex": vertex.compile_pipeline}
    if target not in targets:
        raise ConfigError(f"--target {target} is unknown.", f"Use {' or '.join(targets)}.")
    return targets[target]


@dataclass(frozen=True)
class Where:
    """Which platform, as the command line names it."""

    target: str
    host: str
    token_file: Path | None
    namespace: str
    project: str
    region: str

    def connect(self, cluster_zone: str = "UTC") -> Platform:
        """Return the platform's client. Raises ConfigError for a target, an address or a token that is not there."""
        compiler(self.target)
        if self.target == "vertex":
            from pipeline.targets.vertex.client import Vertex

            if not (self.project and self.region):
                missing = "region" if self.project else "project"
                raise ConfigError(f"--{missing} is missing.", "Vertex needs both: --project NAME --region europe-west4.")
            return Vertex(self.project, self.region, self.host)
        from pipeline.targets.kubeflow.client import Kubeflow

        if not self.host:
            raise ConfigError("--host is missing.", "Name the address of Kubeflow Pipelines, such as http://localhost:8080.")
        token = functools.partial(_read_token, self.token_file)
        return Kubeflow(self.host, token=token, namespace=self.namespace, cluster_zone=cluster_zone)


OPTIONS: dict[str, tuple[Any, Any]] = {
    "target": (Target, "kubeflow"),
    "host": (Host, ""),
    "token_file": (TokenFile, None),
    "namespace": (Namespace, ""),
    "project": (Project, ""),
    "region": (Region, ""),
}


def names_platform(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that name a platform in the place of its argument `where`."""

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        where = Where(**{name: given.pop(name) for name in OPTIONS})
        command(**given, where=where)

    own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "where"]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    added = [inspect.Parameter(name, kind, default=default, annotation=type_) for name, (type_, default) in OPTIONS.items()]
    with_options.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined] # what typer reads
    with_options.__annotations__ = {each.name: each.annotation for each in [*own, *added]}
    return with_options


def _read_token(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {file} cannot be read: {error}.") from None


@contextlib.contextmanager
def _compiled(source: Path, overrides: list[str], target: str) -> Iterator[tuple[Path, RunConfig]]:
    """Give what is sent to a platform, and the config that it was made of."""
    compile_pipeline = compiler(target)
    if source.suffix in (".yaml", ".yml"):
        from pipeline.targets.compiled import read_compiled

        if overrides:
            raise ConfigError(f"--set cannot change {source}, which is compiled.", "Compile the config with it.")
        yield source, read_compiled(source, target)
        return
    config = load_config(source, overrides)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compile_pipeline(config, file)
        yield file, config


def _own_name(name: str) -> str:
    """Return a name that no other run has: after an answer that was lost a run is looked for by it."""
    started = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return f"{name or 'run'}-{started}-{secrets.token_hex(3)}"


@app.command()
@names_platform
def create(
    where: Where,
    config: Config,
    cron: Annotated[str, typer.Option(help='Five fields, such as "0 2 * * *": every night at two.')],
    name: Annotated[str, typer.Option(help="Name of the schedule.")],
    overrides: Overrides = [],  # noqa: B006 - typer reads the default
    time_zone: Zone = "UTC",
    cluster_time_zone: ClusterZone = "UTC",
    start: Annotated[str, typer.Option(help="Not before this time, ISO 8601.")] = "",
    end: Annotated[str, typer.Option(help="Not after this time, ISO 8601.")] = "",
    experiment: Experiment = NAME,
) -> None:
    """Make a schedule; runs do not overlap, and those that were missed are not made up for."""
    schedule = parse_cron(cron, time_zone)
    if where.target == "kubeflow":
        schedule.for_kubeflow(cluster_time_zone)  # before anything is asked
    first, last = _time(start, "--start", time_zone), _time(end, "--end", time_zone)
    now = datetime.datetime.now(datetime.UTC)
    if last is not None and last <= max(first or now, now):
        raise ConfigError(f"--end {end} is not after {'--start ' + start if start else 'now'}.", "No run would ever start.")
    with _compiled(config, overrides, where.target) as (file, loaded):
        client = where.connect(cluster_time_zone)
        if client.schedule(name) is not None:
            raise ConfigError(f"There is a schedule {name} on {client.place} already.", "Delete it, or use another --name.")
        client.make_schedule(file, name, experiment, loaded, schedule, _text(first), _text(last))
    print(f"Schedule {name}: {schedule.explain()}.")
    print("Next: " + ", ".join(_shown(time) for time in schedule.next_times(max(first or now, now))))


@app.command("list")
@names_platform
def list_(where: Where, cluster_time_zone: ClusterZone = "UTC") -> None:
    """List the schedules: in words, and the next times."""
    from pipeline.commands.printing import console

    client = where.connect(cluster_time_zone)
    found = client.schedules()
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "state", "when", "next"):
        table.add_column(heading)
    now = datetime.datetime.now(datetime.UTC)
    for each in found:
        times = each.cron.next_times(now, 1) if each.on and each.cron else []
        table.add_row(each.name, "on" if each.on else "paused", each.words, *(_shown(time) for time in times))
    console().print(table) if found else print(f"No schedules on {client.place}.")


@app.command()
@names_platform
def pause(name: str, where: Where) -> None:
    """Start no more runs until it is resumed."""
    client = where.connect()
    client.switch(_existing(client, name), on=False)
    print(f"Paused {name}.")


@app.command()
@names_platform
def resume(name: str, where: Where) -> None:
    """Go on with a schedule that was paused; what was missed is not made up for."""
    client = where.connect()
    client.switch(_existing(client, name), on=True)
    print(f"Resumed {name}.")


@app.command()
@names_platform
def delete(name: str, where: Where) -> None:
    """Remove a schedule; its runs stay."""
    client = where.connect()
    client.delete_schedule(_existing(client, name))
    print(f"Deleted {name}.")


def _existing(client: Platform, name: str) -> Scheduled:
    found = client.schedule(name)
    if found is None:
        names = ", ".join(sorted(each.name for each in client.schedules())) or "none"
        raise ConfigError(f"There is no schedule {name} on {client.place}; there are: {names}.", "Name one of them.")
    return found


def _time(text: str, option: str, zone: str) -> datetime.datetime | None:
    from zoneinfo import ZoneInfo

    if not text:
        return None
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} {text} is no time.", "Write it as 2026-12-01T02:00 or with an offset.") from None
    return time if time.tzinfo else time.replace(tzinfo=ZoneInfo(zone))


def _text(time: datetime.datetime | None) -> str | None:
    return None if time is None else time.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _shown(time: datetime.datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z")
