"""`submit`: run the pipeline on Kubeflow or Vertex AI."""

from __future__ import annotations

import datetime
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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

if TYPE_CHECKING:
    from pipeline.targets.remote import RemotePlatform


@with_platform_options
@with_parameters
def submit(
    platform: PlatformOptions,
    parameters: list[str],
    config: Annotated[Path | None, typer.Argument(help="TOML file, or a file that compile wrote.")] = None,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default
    name: Annotated[str, typer.Option(help="Run name prefix.")] = "run",
    experiment: Experiment = EXPERIMENT,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end; the exit code is the run's.")] = True,
    follow: Annotated[str, typer.Option(metavar="RUN_ID", help="Submit nothing; wait for this run.")] = "",
) -> None:
    """Run the pipeline on Kubeflow or Vertex AI: upload, start, wait, and exit with the result of the run."""
    if follow:
        raise typer.Exit(_follow(platform.connect(), follow))
    if config is None:
        raise ConfigError("Name a config file to submit, or a run with --follow.", "Examples are in configs/.")
    with compiled_pipeline(config, [*parameters, *overrides], platform.target) as pipeline:
        client = platform.connect()
        run_name = unique_name(name)
        run_id = client.submit(pipeline, run_name, experiment)
    print(f"Run {run_name}: {client.link(run_id)}", flush=True)
    if problem := client.join_experiment(run_id, experiment):
        print(f"  {problem}")
    if wait:
        raise typer.Exit(_follow(client, run_id))


def unique_name(prefix: str) -> str:
    """Return a name that no other run has: after a lost answer, the run is found by it."""
    started = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return f"{prefix or 'run'}-{started}-{secrets.token_hex(3)}"


def _follow(client: RemotePlatform, run_id: str) -> int:
    """Wait for a run, printing a line for each step that changes; return the exit code."""
    run = client.wait(run_id, lambda line: print(f"  {line}", flush=True))
    print(f"{run.explain()}: {client.link(run_id)}")
    return 0 if run.succeeded else 1
