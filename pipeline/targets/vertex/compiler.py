"""Compile for Vertex AI Pipelines: the graph in one YAML document, with train on a TPU as a custom job.

Vertex gives TPUs to custom jobs only. google-cloud-pipeline-components turns train into a component that starts one. Its
function has no tpu_topology, which v5e and later need, so the machine is set here (tests/targets/test_custom_job.py compares
the rest with the library's component).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp import components, dsl

from components.common.errors import ConfigError
from pipeline import steps
from pipeline.config import DeploySection, RunConfig
from pipeline.graph import NAME
from pipeline.mounts import check_mounts_on_vertex
from pipeline.platforms import TpuRow, worker_pool_specs
from pipeline.targets.spec import compile_spec, retry_where_safe, tpu_row

ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1"}


def compile_pipeline(config: RunConfig, out: Path) -> None:
    """Write the pipeline for Vertex AI; needs no project, no account and no network.

    Raises ConfigError for a TPU that Vertex AI does not have or on which training does not run there, and for a folder that
    Vertex AI does not mount.
    """
    check_mounts_on_vertex(config)
    row = tpu_row(config, "vertex")
    train_job = _train_job(row, config.deploy) if row else None

    def place(task: dsl.PipelineTask, step: str) -> None:
        retry_where_safe(task, step, config.deploy)
        if step == "train" and train_job:
            return  # the custom job has its own machine
        task.set_cpu_limit(config.deploy.cpu)  # Vertex chooses a machine with at least this
        task.set_memory_limit(config.deploy.memory)

    compile_spec(config, "vertex", out, place, train_job)


def _train_job(row: TpuRow, deploy: DeploySection) -> Callable[..., Any]:
    """Return `train` as a component that starts a custom job on this TPU, in deploy.tpu_image."""
    try:
        from google_cloud_pipeline_components.v1.custom_job import create_custom_training_job_from_component
    except ImportError:
        raise ConfigError(
            "google-cloud-pipeline-components, needed for train on a TPU of Vertex AI, is not installed.",
            "Install wgan-tpu-pipeline[vertex].",
        ) from None
    component = create_custom_training_job_from_component(
        steps.train,
        display_name=f"{NAME}-train",
        timeout=f"{round(3600 * deploy.timeout_hours)}s",
        restart_job_on_worker_restart=True,  # train continues from its last checkpoint
        service_account=deploy.service_account,
        network=deploy.network,
        encryption_spec_key_name=deploy.kms_key,
        tensorboard=deploy.tensorboard,
        base_output_directory=f"{deploy.pipeline_root}/tensorboard" if deploy.tensorboard else "",
        labels={"pipeline": NAME, "component": "train"},
        strategy="SPOT" if deploy.tpu_spot else "STANDARD",  # slices that train have one host, as spot machines require
    )
    spec = json_format.MessageToDict(component.pipeline_spec)
    (body,) = spec["components"].values()
    for definitions in (body["inputDefinitions"], spec["root"]["inputDefinitions"]):
        machines = definitions["parameters"]["worker_pool_specs"]
        (pool,) = machines["defaultValue"]
        container = pool["container_spec"]
        machines["defaultValue"] = worker_pool_specs(
            row, deploy.tpu_image, container["command"], container["args"], ENVIRONMENT
        )
    loaded: Any = components.load_component_from_text(yaml.safe_dump(spec))
    loaded.component_spec.name = "train"  # it is named after its custom job otherwise
    train: Callable[..., Any] = loaded
    return train
