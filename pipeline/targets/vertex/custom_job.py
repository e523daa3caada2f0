"""Train on a TPU of Vertex AI as a custom job, since Vertex gives TPUs to nothing else.

google-cloud-pipeline-components turns train into a component that starts a custom job. Its function has no tpu_topology, which
v5e and later need, so the machine is set here (tests/targets/test_custom_job.py compares the rest with the library's).
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

    Raises ConfigError when the library is missing or Vertex AI has no spot machines of this slice.
    """
    try:
        from google_cloud_pipeline_components.v1.custom_job import create_custom_training_job_from_component
    except ImportError:
        raise ConfigError(
            "google-cloud-pipeline-components, needed for train on a TPU of Vertex AI, is not installed.",
            "Install wgan-tpu-pipeline[vertex].",
        ) from None
    try:
        strategy = scheduling(row, spot=deploy.tpu_spot)["strategy"]
    except ValueError as error:
        raise ConfigError(f"deploy.tpu_spot = true: {error}.", "Use --set deploy.tpu_spot=false.") from None
    component = create_custom_training_job_from_component(
        steps.train,
        display_name="wgan-tpu-pipeline-train",
        timeout=f"{round(3600 * deploy.timeout_hours)}s",
        restart_job_on_worker_restart=True,  # train continues from its last checkpoint
        service_account=deploy.service_account,
        network=deploy.network,
        encryption_spec_key_name=deploy.kms_key,
        tensorboard=deploy.tensorboard,
        base_output_directory=f"{deploy.pipeline_root}/tensorboard" if deploy.tensorboard else "",
        labels={"pipeline": "wgan-tpu-pipeline", "component": "train"},
        strategy=strategy,
    )
    return _with_machine(component, row, deploy.tpu_image)


def _with_machine(component: Any, row: TpuRow, image: str) -> Callable[..., Any]:
    """Return the component with the machine of the row."""
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
    loaded: Any = components.load_component_from_text(yaml.safe_dump(spec))
    loaded.component_spec.name = "train"  # it is named after its custom job otherwise
    train: Callable[..., Any] = loaded
    return train
