"""Kubeflow Pipelines: the same graph, and for a TPU the selectors, limit and toleration that GKE wants on train."""

from __future__ import annotations

from pathlib import Path

from kfp import dsl, kubernetes

from pipeline.config import RunConfig
from pipeline.platforms import SLICES, gke_node_selector
from pipeline.targets.spec import compile_spec

TPU_RESOURCE = "google.com/tpu"


def compile_pipeline(config: RunConfig, out: Path) -> None:
    """Write the pipeline for Kubeflow: PipelineSpec, and a second YAML document with the Kubernetes parts if any."""

    def place(task: dsl.PipelineTask, step: str) -> None:
        if config.deploy.volume_claim:
            kubernetes.mount_pvc(task, pvc_name=config.deploy.volume_claim, mount_path=config.run.dir)
        if step == "train" and config.train.devices.startswith("tpu"):
            _place_on_tpu(task, config.deploy.tpu_topology)

    compile_spec(config, out, place)


def _place_on_tpu(task: dsl.PipelineTask, topology: str) -> None:
    row = SLICES[topology]
    task.set_accelerator_type(TPU_RESOURCE)
    task.set_accelerator_limit(row.chips)
    for label, value in gke_node_selector(row).items():
        kubernetes.add_node_selector(task, label, value)
    kubernetes.add_toleration(task, key=TPU_RESOURCE, operator="Exists", effect="NoSchedule")
