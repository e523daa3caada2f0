"""`compile`: the pipeline as a file for Kubeflow Pipelines or Vertex AI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import ConfigFile, Overrides, find_compiler
from pipeline.config import load_config


def compile_(
    config: ConfigFile,
    target: Annotated[str, typer.Option(help="kubeflow or vertex.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, .yaml.")],
    overrides: Overrides = [],  # noqa: B006 - typer reads the default
) -> None:
    """Write the pipeline as a file for Kubeflow Pipelines or Vertex AI."""
    find_compiler(target)(load_config(config, overrides), output)
    print(f"Wrote {output} for {target}.")
