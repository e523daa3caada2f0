"""Compile for Kubeflow Pipelines: the graph, and the Kubernetes settings of each step; train alone requests a TPU."""

from __future__ import annotations

from pathlib import Path

from kfp import dsl, kubernetes

from pipeline.config import DeploySection, RunConfig
from pipeline.mounts import check_mounts_on_kubeflow
from pipeline.platforms import TpuRow
from pipeline.targets.spec import compile_spec, retry_where_safe, tpu_row

KEYS = "/var/run/secrets/google"
USER = 10001  # of deploy/images
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
TPU_RESOURCE, SPOT_LABEL = "google.com/tpu", "cloud.google.com/gke-spot"
KUBEFLOW_SECRET = "mlpipeline-minio-artifact"  # of Kubeflow's own object store; its keys are accesskey and secretkey


def compile_pipeline(config: RunConfig, out: Path) -> None:
    """Write the pipeline for Kubeflow: the PipelineSpec, and a second YAML document with the Kubernetes settings.

    Raises ConfigError for a TPU that GKE does not have or on which training does not run there, and for a folder that the steps
    do not share.
    """
    check_mounts_on_kubeflow(config)
    row = tpu_row(config, "gke")

    def place(task: dsl.PipelineTask, step: str) -> None:
        _set_pod(task, step, config.deploy)
        if config.deploy.volume_claim:
            kubernetes.mount_pvc(task, pvc_name=config.deploy.volume_claim, mount_path=config.run.dir)
        _set_s3(task, config.deploy)
        if config.deploy.google_key_secret:
            kubernetes.use_secret_as_volume(task, secret_name=config.deploy.google_key_secret, mount_path=KEYS)
            task.set_env_variable("GOOGLE_APPLICATION_CREDENTIALS", f"{KEYS}/key.json")
        if step == "train" and row:
            _place_on_tpu(task, row, config.deploy)

    compile_spec(config, "kubeflow", out, place)


def _set_s3(task: dsl.PipelineTask, deploy: DeploySection) -> None:
    """Give the step the key and the URL of an S3 server."""
    if deploy.s3_secret:
        names = {"accesskey": S3_KEYS[0], "secretkey": S3_KEYS[1]} if deploy.s3_secret == KUBEFLOW_SECRET else {}
        kubernetes.use_secret_as_env(task, deploy.s3_secret, names or {name: name for name in S3_KEYS})
    for name, value in {"AWS_ENDPOINT_URL": deploy.s3_endpoint, "AWS_DEFAULT_REGION": deploy.s3_region}.items():
        if value:
            task.set_env_variable(name, value)


def _set_pod(task: dsl.PipelineTask, step: str, deploy: DeploySection) -> None:
    """Set an unprivileged user, a timeout, resources, labels, and retries where they are safe."""
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.set_timeout(task, round(3600 * deploy.timeout_hours))
    for label, value in {"name": "wgan-tpu-pipeline", "component": step}.items():
        kubernetes.add_pod_label(task, f"app.kubernetes.io/{label}", value)
    task.set_cpu_request(deploy.cpu)
    task.set_memory_request(deploy.memory)
    retry_where_safe(task, step, deploy)


def _place_on_tpu(task: dsl.PipelineTask, row: TpuRow, deploy: DeploySection) -> None:
    """Select the machines of a slice by the labels that GKE gives them, and tolerate their taints."""
    task.set_container_image(deploy.tpu_image)
    task.set_accelerator_type(TPU_RESOURCE)
    task.set_accelerator_limit(row.chips_per_host)  # GKE gives out all chips of a machine or none
    kubernetes.add_node_selector(task, "cloud.google.com/gke-tpu-accelerator", row.accelerator)
    kubernetes.add_node_selector(task, "cloud.google.com/gke-tpu-topology", row.slice.topology)
    kubernetes.add_toleration(task, key=TPU_RESOURCE, operator="Exists", effect="NoSchedule")
    if deploy.tpu_spot:
        kubernetes.add_node_selector(task, SPOT_LABEL, "true")
        kubernetes.add_toleration(task, key=SPOT_LABEL, operator="Equal", value="true", effect="NoSchedule")
