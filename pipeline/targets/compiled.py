"""Reading a compiled file: the platform that it was compiled for, and its config."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from pydantic import ValidationError

from components.common.errors import ConfigError
from components.report.description import RunDescription
from pipeline.config import RunConfig
from pipeline.graph import NAME


def read_compiled(file: Path, target: str) -> RunConfig:
    """Return the config of a file that `compile --target` wrote. Raises ConfigError for other files and other targets."""
    try:
        spec, *rest = yaml.safe_load_all(file.read_text())
        inputs = spec["root"]["dag"]["tasks"]["report"]["inputs"]["parameters"]
        named = spec["pipelineInfo"]["name"]
        description = RunDescription.model_validate_json(inputs["run"]["runtimeValue"]["constant"])
        config = RunConfig.model_validate_json(json.dumps(description.config))
    except FileNotFoundError:
        raise ConfigError(f"There is no file {file}.", "wgan-pipeline compile writes one.") from None
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, ValidationError):
        raise ConfigError(f"{file} is not a compiled pipeline of this program.", "wgan-pipeline compile writes one.") from None
    # For Kubeflow, a second document has the Kubernetes settings of the steps; Vertex accepts only one.
    compiled_for = "kubeflow" if rest else "vertex"
    if named != NAME or compiled_for != target:
        raise ConfigError(
            f"{file} was compiled for {compiled_for}, but --target is {target}.",
            f"Use --target {compiled_for}, or compile it with --target {target}.",
        )
    return config
