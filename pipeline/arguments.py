"""The arguments of the pipeline: the same for a local run, a compiled file and a submitted job."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

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


def pipeline_arguments(config: RunConfig, keys: dict[str, str], description: RunDescription) -> dict[str, str]:
    """Return the pipeline's arguments: each step's section as a JSON string, since KFP turns numbers in dicts into floats."""
    arguments = {"work_dir": config.work_dir, "run": description.model_dump_json()}
    for step, section in config.sections().items():
        arguments[f"{step}_config"] = section.model_dump_json()
        arguments[f"{step}_key"] = keys[step]
    # kfp's SubprocessRunner replaces "python3" in every argument, JSON included, by the interpreter's path.
    return {name: value.replace("python3", "python\\u0033") for name, value in arguments.items()}
