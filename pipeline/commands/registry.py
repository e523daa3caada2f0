"""`registry`: published models, rollback and removal of old versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pipeline.commands.printing import console
from pipeline.config import load_config

app = typer.Typer(help="List published models, roll back to an earlier one, remove old ones.", no_args_is_help=True)
Registry = Annotated[str, typer.Option("--registry", help="Folder, gs:// or s3:// URL of the registry (push.registry).")]
DEFAULT_REGISTRY = "runs/registry"


@app.command("list")
def list_(registry: Registry = DEFAULT_REGISTRY) -> None:
    """List the versions with their scores, newest first."""
    from components.evaluate.metrics.table import metrics_on
    from components.registry.maintenance import list_versions

    table = Table(box=None, pad_edge=False)
    metrics = metrics_on("console")
    for heading in ("version", "in service", "published"):
        table.add_column(heading)
    for metric in metrics:
        table.add_column(metric.title, justify="right")
    versions = list_versions(registry)
    for each in versions:
        if each.fault:
            table.add_row(each.name, each.state, f"damaged: {each.fault}")
            continue
        shown = (metric.text(each.scores) for metric in metrics)
        table.add_row(each.name, each.state, each.created_at[:19].replace("T", " "), *shown)
    console().print(table) if versions else print(f"No versions in {registry} yet: wgan-pipeline run")


@app.command()
def show(
    version: Annotated[str, typer.Argument(help="Version; default: the champion.")] = "", registry: Registry = DEFAULT_REGISTRY
) -> None:
    """Verify every file of a version and print its path, scores and inputs as JSON."""
    from components.registry import maintenance
    from components.registry.registry import Registry as Store

    found, manifest = maintenance.show(registry, version)
    about = {"version": found.name, "in_service": found.state, "path": Store(registry).version_location(found.name)}
    about |= {"created_at": found.created_at, "digest": manifest.digest}
    print(json.dumps(about | {"inputs": manifest.inputs, "details": manifest.details, "scores": found.scores}, indent=2))


@app.command()
def rollback(
    version: Annotated[str, typer.Argument(help="Version; default: the one that was in service before.")] = "",
    registry: Registry = DEFAULT_REGISTRY,
    config: Annotated[Path | None, typer.Option(help="TOML file with push.registry and push.vertex_model.")] = None,
) -> None:
    """Put an earlier version into service and record it; update Vertex AI if the config names push.vertex_model."""
    from components.registry import maintenance

    push = load_config(config).push if config else None
    registry = push.registry or registry if push else registry
    pointer = maintenance.rollback(registry, version)
    print(f"{pointer.version} is in service" + (f"; it replaces {pointer.previous}." if pointer.previous else "."))
    if push and push.vertex_model:
        from components.push.vertex_model import update_vertex
        from components.registry.registry import Registry as Store

        print(f"On Vertex AI it is {update_vertex(push.vertex_model, push.serving_image, Store(registry))}.")


@app.command()
def retain(
    keep: Annotated[int, typer.Option(help="Number of newest versions to keep.")],
    registry: Registry = DEFAULT_REGISTRY,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed; remove nothing.")] = False,
) -> None:
    """Remove old versions; the champion and the one before it always stay."""
    from components.registry import maintenance

    names = maintenance.retain(registry, keep, dry_run=dry_run)
    done = "Would remove" if dry_run else "Removed"
    print(f"{done} {', '.join(names)}." if names else "There is nothing to remove.")
