"""Train on a TPU of Vertex AI: as a custom job, since Vertex gives TPUs to nothing else.

google-cloud-pipeline-components makes a component of a custom job of train's, with all of its inputs and outputs; what machine
it is, the library cannot say for TPUs of v5e and later (its function has no tpu_topology), so that part is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from components.common.errors import ConfigError
from pipeline import steps
from pipeline.config import DeploySection
from pipeline.platforms import TpuRow, scheduling, worker_pool_specs

ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1"}


def train_on_tpu(row: TpuRow, deploy: DeploySection) -> Callable[..., Any]:
    """Return `train` as a component that starts a custom job on this TPU, in deploy.tpu_image.

    Raises ConfigError when the library is not there or the TPU is not to be had as asked.
    """
    try:
        from google_cloud_pipeline_components.v1.custom_job import create_custom_training_job_from_component
    except ImportError:
        raise ConfigError(
            "google-cloud-pipeline-components, which places train on a TPU of Vertex AI, is not installed.",
            "Install wgan-tpu-pipeline[vertex].",
        ) from None
    try:
        plan = scheduling(row, spot=deploy.tpu_spot)
    except ValueError as error:
        raise ConfigError(f"deploy.tpu_spot = true: {error}.", "Use --set deploy.tpu_spot=false.") from None
    component = create_custom_training_job_from_component(
        steps.train,
        display_name="wgan-tpu-pipeline-train",
        timeout=f"{round(3600 * deploy.timeout_hours)}s",
        restart_job_on_worker_restart=True,  # it goes on from its last checkpoint
        service_account=deploy.service_account,
        network=deploy.network,
        encryption_spec_key_name=deploy.kms_key,
        tensorboard=deploy.tensorboard,
        base_output_directory=f"{deploy.pipeline_root}/tensorboard" if deploy.tensorboard else "",
        labels={"pipeline": "wgan-tpu-pipeline", "component": "train"},
        strategy=plan["strategy"],
    )
    return _on(component, row, deploy.tpu_image)


def _on(component: Any, row: TpuRow, image: str) -> Callable[..., Any]:
    """Return the component with its machine replaced by the row's."""
    import yaml
    from google.protobuf import json_format
    from kfp import components

    spec = json_format.MessageToDict(component.pipeline_spec)
    (body,) = spec["components"].values()
    for definitions in (body["inputDefinitions"], spec["root"]["inputDefinitions"]):
        machines = definitions["parameters"]["worker_pool_specs"]
        (pool,) = machines["defaultValue"]
        container = pool["container_spec"]
        machines["defaultValue"] = worker_pool_specs(row, image, container["command"], container["args"], ENVIRONMENT)
    named: Any = components.load_component_from_text(yaml.safe_dump(spec))
    named.component_spec.name = "train"  # a loaded component is named after what is in it
    placed: Callable[..., Any] = named
    return placed
