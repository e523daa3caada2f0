"""Compile the graph with a config as its default arguments, and read a compiled file: the part that the targets share."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from kfp import compiler, dsl

from components.common.artifacts import write_bytes
from components.common.errors import ConfigError
from pipeline import steps
from pipeline.arguments import as_argument, describe_run
from pipeline.config import DeploySection, RunConfig
from pipeline.graph import PlaceTask, checks_before_train, found_by_snapshot, make_pipeline
from pipeline.keys import step_keys
from pipeline.parameters import pipeline_docstring, pipeline_parameters
from pipeline.platforms import TITLES, Platform, TpuRow, find_training_row

# These continue or start over, and leave nothing half-written. Vertex AI retries them after every failure, so not validate and
# tpu_check, which would only fail in the same way again. Kubeflow's own settings (retryPolicy OnError) retry a lost pod of any
# step, and no exit code (docs/operations.md).
RETRIED_STEPS = {"ingest", "train", "evaluate", "gate", "push"}
BACKOFF = {"backoff_duration": "60s", "backoff_factor": 2.0, "backoff_max_duration": "900s"}
UNKNOWN_KEY = "found by the step snapshot"  # the content of the source is unknown until the run begins
SUFFIXES = {".yaml", ".yml"}


def tpu_row(config: RunConfig, platform: Platform) -> TpuRow | None:
    """Return the row of deploy.tpu_topology if train.devices is a TPU. Raises ConfigError if it does not train there."""
    deploy = config.deploy
    if not config.train.devices.startswith("tpu"):
        return None
    if deploy.tpu_platform not in ("any", platform):
        raise ConfigError(
            f"deploy.tpu_platform = {deploy.tpu_platform!r}, but this target runs on {TITLES[platform]}.",
            f"Use --set deploy.tpu_platform={platform}.",
        )
    try:
        return find_training_row(platform, deploy.tpu_topology)
    except ValueError as error:
        raise ConfigError(f"deploy.tpu_topology = {deploy.tpu_topology!r}: {error}.") from None


def compile_spec(
    config: RunConfig, target: str, out: Path, place: PlaceTask, train_job: Callable[..., dsl.PipelineTask] | None = None
) -> None:
    """Write the pipeline for `target` to `out`, with the values of `config` as its defaults; needs no account and no network.

    `train_job` replaces steps.train where training is not a container like the other steps. Raises ConfigError for a file name
    that KFP does not accept, ArtifactError when the file cannot be written.
    """
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"{out} does not end in .yaml, as KFP requires.", f"Use -o {out.with_suffix('.yaml')}.")
    _check_digests(config)

    def place_remotely(task: dsl.PipelineTask, step: str) -> None:
        if step != "train" or train_job is None:
            task.set_container_image(config.deploy.tpu_check_image if step == "tpu_check" else config.deploy.image)
        place(task, step)

    keys = dict.fromkeys(step_keys(config, ""), UNKNOWN_KEY)
    run = as_argument(describe_run(config, keys, run_id="", started_at="", folder=""))
    pipeline = make_pipeline(
        place_remotely,
        checks_before_train(config),
        found_by_snapshot(run, target),
        run,
        str(config.work_dir),
        pipeline_parameters(config),
        pipeline_docstring(),
        created_at=dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER,
        resource_name=dsl.PIPELINE_JOB_RESOURCE_NAME_PLACEHOLDER,
        train_step=train_job or steps.train,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(file))
        write_bytes(out, file.read_bytes())


def retry_where_safe(task: dsl.PipelineTask, step: str, deploy: DeploySection) -> None:
    """Set the retries of a step that may be repeated."""
    if step in RETRIED_STEPS and deploy.retries:
        task.set_retry(deploy.retries, **BACKOFF)


def _check_digests(config: RunConfig) -> None:
    """Raise ConfigError for an image without digest if deploy.require_digests is set."""
    used = {
        "image": True,
        "tpu_image": config.train.devices.startswith("tpu"),
        "tpu_check_image": "tpu_check" in config.sections(),
    }
    for key, needed in used.items():
        image = getattr(config.deploy, key)
        if config.deploy.require_digests and needed and not re.fullmatch(r".+@sha256:[0-9a-f]{64}", image):
            raise ConfigError(
                f"deploy.{key} = {image!r} has no digest, and deploy.require_digests is set.",
                "Name it as NAME@sha256:…; the image registry shows the digest.",
            )
