"""`submit` and `schedule`: what the command line does on a platform, and what it prints of that."""

from __future__ import annotations

import contextlib
import datetime
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from components.errors import ConfigError
from pipeline.config import RunConfig, load_config
from pipeline.cron import Cron, parse_cron

NAME = "wgan-tpu-pipeline"
app = typer.Typer(help="Retrain on a schedule: create, list, pause, resume, delete.", no_args_is_help=True)
Config = Annotated[Path, typer.Argument(help="TOML file.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one key; repeatable.")]
Target = Annotated[str, typer.Option(help="kubeflow.")]
Host = Annotated[str, typer.Option(help="Address of Kubeflow Pipelines, such as https://HOST/pipeline or a port-forward's.")]
TokenFile = Annotated[Path | None, typer.Option(help="File with the bearer token; it is read anew by each command.")]
Namespace = Annotated[str, typer.Option(help="The namespace, where Kubeflow has many users.")]
Experiment = Annotated[str, typer.Option(help="The experiment that runs belong to.")]
Account = Annotated[
    str, typer.Option("--service-account", help="The Kubernetes account that steps run as; else the cluster's.")
]
Zone = Annotated[str, typer.Option(help="Time zone of the schedule.")]
ClusterZone = Annotated[str, typer.Option(help="Time zone the cluster reads schedules in (CRON_SCHEDULE_TIMEZONE).")]


def submit(config: RunConfig, where: Callable[[], Any], *, experiment: str, name: str, wait: bool, account: str = "") -> int:
    """Compile, connect (`where`), upload, start and (with `wait`) follow a run; return the exit code.

    Raises ConfigError before anything is asked, RemoteError when the platform refuses or cannot be reached.
    """
    with _compiled(config) as file:
        client = where()
        version = client.version(NAME, file)
    run = client.run(client.experiment(experiment), _own_name(name), version, account or None)
    print(f"Run {run.name}: {run.link}")
    return follow(client, run.run_id) if wait else 0


def follow(client: Any, run_id: str) -> int:
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


def connect(target: str, host: str, token_file: Path | None, namespace: str) -> Any:
    """Return the platform's client. Raises ConfigError for a target or a token that is not there."""
    from pipeline.targets.kubeflow_client import Kubeflow

    if target != "kubeflow":
        raise ConfigError(f"--target {target} is unknown here.", "Use kubeflow.")
    if not host:
        raise ConfigError("--host is missing.", "Name the address of Kubeflow Pipelines, such as http://localhost:8080.")
    return Kubeflow(host, token=lambda: _read_token(token_file), namespace=namespace)


def _read_token(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {file} cannot be read: {error}.") from None


@contextlib.contextmanager
def _compiled(config: RunConfig) -> Iterator[Path]:
    from pipeline.targets import kubeflow

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        kubeflow.compile_pipeline(config, file)
        yield file


def _own_name(name: str) -> str:
    """Return a name that no other run has: after an answer that was lost a run is looked for by it."""
    started = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return f"{name or 'run'}-{started}-{secrets.token_hex(3)}"


@app.command()
def create(
    config: Config,
    cron: Annotated[str, typer.Option(help='Five fields, such as "0 2 * * *": every night at two.')],
    name: Annotated[str, typer.Option(help="Name of the schedule.")],
    target: Target = "kubeflow",
    host: Host = "",
    overrides: Overrides = [],  # noqa: B006 - typer reads the default
    time_zone: Zone = "UTC",
    cluster_time_zone: ClusterZone = "UTC",
    start: Annotated[str, typer.Option(help="Not before this time, ISO 8601.")] = "",
    end: Annotated[str, typer.Option(help="Not after this time, ISO 8601.")] = "",
    experiment: Experiment = NAME,
    account: Account = "",
    token_file: TokenFile = None,
    namespace: Namespace = "",
) -> None:
    """Make a schedule; runs do not overlap, and those that were missed are not made up for."""
    schedule = parse_cron(cron, time_zone)
    fields = schedule.for_kubeflow(cluster_time_zone)
    first, last = _time(start, "--start", time_zone), _time(end, "--end", time_zone)
    now = datetime.datetime.now(datetime.UTC)
    if last is not None and last <= max(first or now, now):
        raise ConfigError(f"--end {end} is not after {'--start ' + start if start else 'now'}.", "No run would ever start.")
    with _compiled(load_config(config, overrides)) as file:
        client = connect(target, host, token_file, namespace)
        if client.schedule(name) is not None:
            raise ConfigError(f"There is a schedule {name} on {client.host} already.", "Delete it, or use another --name.")
        version = client.version(NAME, file)
    times: dict[str, str | None] = {"start": _text(first), "end": _text(last)}
    client.make_schedule(name, client.experiment(experiment), version, fields, **times, service_account=account or None)
    print(f"Schedule {name}: {schedule.explain()}.")
    print("Next: " + ", ".join(_shown(time) for time in schedule.next_times(max(first or now, now))))


@app.command("list")
def list_(
    target: Target = "kubeflow",
    host: Host = "",
    cluster_time_zone: ClusterZone = "UTC",
    token_file: TokenFile = None,
    namespace: Namespace = "",
) -> None:
    """List the schedules: in words, and the next times."""
    from pipeline.targets.show import console

    client = connect(target, host, token_file, namespace)
    found = client.schedules()
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "state", "when", "next"):
        table.add_column(heading)
    now = datetime.datetime.now(datetime.UTC)
    for each in found:
        on = str(each.status or each.mode or "").upper().startswith("ENABLE")
        table.add_row(each.display_name, "on" if on else "paused", *_when(each, cluster_time_zone, now if on else None))
    console().print(table) if found else print(f"No schedules on {client.host}.")


@app.command()
def pause(
    name: str, target: Target = "kubeflow", host: Host = "", token_file: TokenFile = None, namespace: Namespace = ""
) -> None:
    """Start no more runs until it is resumed."""
    client = connect(target, host, token_file, namespace)
    client.switch(_existing(client, name), on=False)
    print(f"Paused {name}.")


@app.command()
def resume(
    name: str, target: Target = "kubeflow", host: Host = "", token_file: TokenFile = None, namespace: Namespace = ""
) -> None:
    """Go on with a schedule that was paused; what was missed is not made up for."""
    client = connect(target, host, token_file, namespace)
    client.switch(_existing(client, name), on=True)
    print(f"Resumed {name}.")


@app.command()
def delete(
    name: str, target: Target = "kubeflow", host: Host = "", token_file: TokenFile = None, namespace: Namespace = ""
) -> None:
    """Remove a schedule; its runs stay."""
    client = connect(target, host, token_file, namespace)
    client.delete_schedule(_existing(client, name))
    print(f"Deleted {name}.")


def _existing(client: Any, name: str) -> Any:
    found = client.schedule(name)
    if found is None:
        names = ", ".join(sorted(each.display_name for each in client.schedules())) or "none"
        raise ConfigError(f"There is no schedule {name} on {client.host}; there are: {names}.", "Name one of them.")
    return found


def _when(each: Any, zone: str, after: datetime.datetime | None) -> tuple[str, str]:
    cron = each.trigger.cron_schedule if each.trigger else None
    if cron is None or not cron.cron:
        return "not by cron: made by another program", ""
    seconds, _, fields = str(cron.cron).partition(" ")
    try:
        schedule: Cron = parse_cron(fields, zone)
    except ConfigError:
        return f"{cron.cron} (six fields, seconds first)", ""
    words = schedule.explain() if seconds == "0" else f"{schedule.explain()}, at second {seconds}"
    return words, "" if after is None else _shown(schedule.next_times(after, 1)[0])


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
