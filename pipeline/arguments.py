"""The arguments of the steps: the same for a local run and for a run on a platform."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Mapping

from pydantic import BaseModel

from components.report.description import RunDescription
from pipeline.config import RunConfig

SHOWN_VERSIONS = ("wgan-tpu-pipeline", "tensorflow", "keras", "apache-beam", "kfp", "numpy")


def describe_run(config: RunConfig, keys: dict[str, str], *, run_id: str, started_at: str, folder: str) -> RunDescription:
    """Return the description of the run that the report reads."""
    versions = {name: importlib.metadata.version(name) for name in SHOWN_VERSIONS}
    return RunDescription(
        run_id=run_id,
        started_at=started_at,
        config=config.as_dict(),
        command=" ".join(["wgan-pipeline", *sys.argv[1:]]),
        work_dir=config.work_dir,
        keys=keys,
        versions={"python": platform.python_version(), **versions},
        folder=folder,
    )


def step_arguments(config: RunConfig, keys: Mapping[str, str]) -> dict[str, str]:
    """Return STEP_config and STEP_key of each step: its section as JSON, since KFP turns numbers in dicts into floats."""
    arguments: dict[str, str] = {}
    for step, section in config.sections().items():
        arguments |= {f"{step}_config": as_argument(section), f"{step}_key": keys[step]}
    return arguments


def as_argument(model: BaseModel) -> str:
    """Return JSON for a step: kfp's SubprocessRunner replaces "python3" in every argument by the interpreter's path."""
    return model.model_dump_json().replace("python3", "python\\u0033")
