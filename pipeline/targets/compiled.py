"""Reading a compiled file back: for which platform it is, and the config it was made of."""

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
    """Return the config of a file that `compile --target` wrote. Raises ConfigError for any other, and for another target's."""
    try:
        documents = list(yaml.safe_load_all(file.read_text()))
        (spec, *rest) = documents
        parameters = spec["root"]["inputDefinitions"]["parameters"]
        named = spec["pipelineInfo"]["name"]
        description = RunDescription.model_validate_json(parameters["run"]["defaultValue"])
        config = RunConfig.model_validate_json(json.dumps(description.config))
    except FileNotFoundError:
        raise ConfigError(f"There is no file {file}.", "wgan-pipeline compile makes one.") from None
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, ValidationError):
        raise ConfigError(f"{file} is no compiled pipeline of this program.", "wgan-pipeline compile makes one.") from None
    # Each step on Kubeflow has its Kubernetes part in the second document; Vertex accepts one only.
    made_for = "kubeflow" if rest else "vertex"
    if named != NAME or made_for != target:
        raise ConfigError(
            f"{file} was compiled for {made_for}, and --target is {target}.",
            f"Use --target {made_for}, or compile it with --target {target}.",
        )
    return config
