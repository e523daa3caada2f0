"""`schedule`: retrain on a schedule on Kubeflow or Vertex AI."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer
from rich.table import Table

from components.common.errors import ConfigError
from pipeline.commands.options import (
    EXPERIMENT,
    Experiment,
    Overrides,
    PlatformOptions,
    compiled_pipeline,
    with_parameters,
    with_platform_options,
)
from pipeline.commands.printing import console

if TYPE_CHECKING:
    from pipeline.targets.remote import PlatformSchedule, RemotePlatform

app = typer.Typer(help="Retrain on a schedule: create, list, pause, resume, delete.", no_args_is_help=True)
ClusterZone = Annotated[str, typer.Option(help="Kubeflow: the cluster's time zone for schedules (CRON_SCHEDULE_TIMEZONE).")]


@app.command()
@with_platform_options
@with_parameters
def create(
    platform: PlatformOptions,
    parameters: list[str],
    config: Annotated[Path, typer.Argument(help="TOML file, or a file that compile wrote.")],
    cron: Annotated[str, typer.Option(help='Five fields, such as "0 2 * * *": every night at two.')],
    name: Annotated[str, typer.Option(help="Name of the schedule.")],
    overrides: Overrides = [],  # noqa: B006 - typer reads the default
    time_zone: Annotated[str, typer.Option(help="Time zone of the schedule.")] = "UTC",
    cluster_time_zone: ClusterZone = "UTC",
    start: Annotated[str, typer.Option(help="Not before this time, ISO 8601.")] = "",
    end: Annotated[str, typer.Option(help="Not after this time, ISO 8601.")] = "",
    experiment: Experiment = EXPERIMENT,
) -> None:
    """Create a schedule; runs do not overlap, and missed runs are not made up for."""
    from pipeline.cron import parse_cron  # the image train-tpu lacks its package cronsim, and has the other commands

    schedule = parse_cron(cron, time_zone)
    if platform.target == "kubeflow":
        schedule.for_kubeflow(cluster_time_zone)  # refuses another time zone before any request
    first, last = _parse_time(start, "--start", time_zone), _parse_time(end, "--end", time_zone)
    now = datetime.datetime.now(datetime.UTC)
    if last is not None and last <= max(first or now, now):
        raise ConfigError(f"--end {end} is not after {'--start ' + start if start else 'now'}.", "No run would ever start.")
    with compiled_pipeline(config, [*parameters, *overrides], platform.target) as pipeline:
        client = platform.connect(cluster_time_zone)
        if client.schedule(name) is not None:
            raise ConfigError(f"Schedule {name} already exists on {client.service}.", "Delete it, or use another --name.")
        client.create_schedule(pipeline, name, experiment, schedule, _utc_text(first), _utc_text(last))
    print(f"Schedule {name}: {schedule.explain()}.")
    print("Next: " + ", ".join(_minutes_text(time) for time in schedule.next_times(max(first or now, now))))


@app.command("list")
@with_platform_options
def list_(platform: PlatformOptions, cluster_time_zone: ClusterZone = "UTC") -> None:
    """List the schedules in words, with their next times."""
    client = platform.connect(cluster_time_zone)
    schedules = client.schedules()
    table = Table("name", "state", "when", "next", box=None, pad_edge=False)
    now = datetime.datetime.now(datetime.UTC)
    for each in schedules:
        times = each.cron.next_times(now, 1) if each.on and each.cron else []
        table.add_row(each.name, "on" if each.on else "paused", each.words, *(_minutes_text(time) for time in times))
    console().print(table) if schedules else print(f"No schedules on {client.service}.")


@app.command()
@with_platform_options
def pause(name: str, platform: PlatformOptions) -> None:
    """Start no more runs until the schedule is resumed."""
    _switch(platform, name, on=False)


@app.command()
@with_platform_options
def resume(name: str, platform: PlatformOptions) -> None:
    """Resume a paused schedule; missed runs are not made up for."""
    _switch(platform, name, on=True)


@app.command()
@with_platform_options
def delete(
    name: str,
    platform: PlatformOptions,
    wait: Annotated[bool, typer.Option("--wait", help="Kubeflow: wait for a run of it that has not ended.")] = False,
) -> None:
    """Delete a schedule; its runs stay. On Kubeflow, it is paused but not deleted while a run of it has not ended."""
    client = platform.connect()
    client.delete_schedule(_existing(client, name), wait=wait)
    print(f"Deleted {name}.")


def _switch(platform: PlatformOptions, name: str, *, on: bool) -> None:
    client = platform.connect()
    client.switch(_existing(client, name), on=on)
    print(f"{'Resumed' if on else 'Paused'} {name}.")


def _existing(client: RemotePlatform, name: str) -> PlatformSchedule:
    schedule = client.schedule(name)
    if schedule is None:
        names = ", ".join(sorted(each.name for each in client.schedules())) or "none"
        raise ConfigError(f"There is no schedule {name} on {client.service}.", f"Existing schedules: {names}.")
    return schedule


def _parse_time(text: str, option: str, zone: str) -> datetime.datetime | None:
    if not text:
        return None
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} {text} is not a time.", "Write it as 2026-12-01T02:00, or with an offset.") from None
    return time if time.tzinfo else time.replace(tzinfo=ZoneInfo(zone))


def _utc_text(time: datetime.datetime | None) -> str | None:
    return None if time is None else time.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _minutes_text(time: datetime.datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z")
