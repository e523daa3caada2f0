"""Compile the graph with a config as its defaults: what every remote target has in common."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from kfp import compiler, dsl

from components.common.addresses import is_address, local_path
from components.common.artifacts import write_bytes
from components.common.errors import ConfigError
from pipeline import steps
from pipeline.arguments import describe_run, pipeline_arguments
from pipeline.config import DeploySection, RunConfig, with_folders
from pipeline.graph import Place, checks_before_train, keys_looked_up, make_pipeline, place_nowhere
from pipeline.keys import step_keys
from pipeline.platforms import TITLES, Platform, TpuRow, find_training_row

# Each goes on where it was interrupted or begins anew, and leaves nothing half-written. What validate and tpu_check say, they
# would say again.
REPEATED = {"ingest", "train", "evaluate", "push"}
BACKOFF = {"backoff_duration": "60s", "backoff_factor": 2.0, "backoff_max_duration": "900s"}
LOOKED_UP = "looked up by the step snapshot"  # a key: what the source holds is known only when the run begins
SUFFIXES = {".yaml", ".yml"}


def tpu_row(config: RunConfig, platform: Platform) -> TpuRow | None:
    """Return what to ask `platform` for when train.devices is a TPU. Raises ConfigError for one it does not train on."""
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
    config: RunConfig, out: Path, place: Place = place_nowhere, train: Callable[..., dsl.PipelineTask] | None = None
) -> None:
    """Write the pipeline as `out`, its arguments' defaults taken from `config`; needs no account and no network.

    `train` is what trains where it is not a container like the others.

    Raises ConfigError for a file name KFP does not know, a run.dir that steps cannot share or a source that they cannot see,
    ArtifactError when the file cannot be written.
    """
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"{out} does not end in .yaml, which is what KFP reads.", f"Use -o {out.with_suffix('.yaml')}.")
    if not Path(config.run.dir).is_absolute():
        raise ConfigError(
            f"run.dir = {config.run.dir!r} is a folder of this machine, and remote steps share none with it.",
            "Name a mounted one, such as --set run.dir=/gcs/BUCKET/wgan on Vertex or a volume's path on Kubeflow.",
        )
    _refuse_local_source(config.ingest.source)
    _check_digests(config)
    config = with_folders(config)

    def place_remotely(task: dsl.PipelineTask, step: str) -> None:
        if step != "train" or train is None:
            task.set_container_image(config.deploy.tpu_check_image if step == "tpu_check" else config.deploy.image)
        place(task, step)

    keys = dict.fromkeys(step_keys(config, ""), LOOKED_UP)
    description = describe_run(config, keys, run_id="", started_at="", folder="")
    arguments = pipeline_arguments(config, keys, description)
    checks = checks_before_train(config)
    created_at = dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER
    pipeline = make_pipeline(place_remotely, checks, created_at, train_step=train or steps.train, find_keys=keys_looked_up)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(file), pipeline_parameters=arguments)
        write_bytes(out, file.read_bytes())


def retry_where_safe(task: dsl.PipelineTask, step: str, deploy: DeploySection) -> None:
    """Give a step another try where it may be repeated."""
    if step in REPEATED and deploy.retries:
        task.set_retry(deploy.retries, **BACKOFF)


def _check_digests(config: RunConfig) -> None:
    """Refuse images that may be others tomorrow, where the config asks for that. Raises ConfigError."""
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
                "Name it as NAME@sha256:…, which the registry of images shows.",
            )


def _refuse_local_source(source: str) -> None:
    """Refuse images that no remote step can see: an address or a path that is mounted there is needed. Raises ConfigError."""
    place = source.removeprefix("images:")
    seen = place == source or (
        not place.startswith("memory://") if is_address(place) else Path(local_path(place)).is_absolute()
    )
    if not seen:
        raise ConfigError(
            f'ingest.source = "{source}" lies on this machine, and remote steps do not see it.',
            "Name an address such as images:gs://BUCKET/FOLDER, or the absolute path of a mounted folder.",
        )
