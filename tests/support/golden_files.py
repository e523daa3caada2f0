"""The golden files: requests to Vertex AI and Kubernetes. `python -m tests.support.golden_files` writes them."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import load_config
from pipeline.platforms import ROWS, worker_pool_specs
from pipeline.targets.kubeflow import compiler
from pipeline.targets.vertex.compiler import compile_pipeline as compile_for_vertex

FOLDER = Path(__file__).parents[1] / "targets" / "golden"
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.toml"
IMAGE = "registry.example/wgan/train-tpu@sha256:0"
COMMAND, ARGS = ["python", "-m", "components.train"], ["--config", "/gcs/bucket/config.toml"]

KUBERNETES = {
    "v3-2x2": ["deploy.tpu_topology=v3:2x2"],
    "v4-2x2x1": ["deploy.tpu_topology=v4:2x2x1"],
    "v5e-1x1": ["deploy.tpu_topology=v5e:1x1"],
    "v5e-2x4": ["deploy.tpu_topology=v5e:2x4"],
    "v5e-2x4-spot": ["deploy.tpu_topology=v5e:2x4", "deploy.tpu_spot=true"],
    "v5p-2x2x1": ["deploy.tpu_topology=v5p:2x2x1"],
}


VERTEX = {
    "v3-2x2": ["deploy.tpu_topology=v3:2x2", "deploy.tpu_spot=true"],
    "v5e-2x4": [
        "deploy.tpu_topology=v5e:2x4", "deploy.service_account=wgan@p.iam.gserviceaccount.com",
        "deploy.pipeline_root=gs://bucket/root",
        "deploy.network=projects/1/global/networks/n",
        "deploy.kms_key=projects/p/locations/europe-west4/keyRings/r/cryptoKeys/k",
        "deploy.tensorboard=projects/p/locations/europe-west4/tensorboards/1",
    ],
}  # fmt: skip


def vertex() -> str:
    """Return the machine of a custom job, for every row of Vertex AI."""
    jobs: dict[str, Any] = {}
    for row in ROWS:
        if row.platform == "vertex":
            specs = worker_pool_specs(row, IMAGE, COMMAND, ARGS, {"TF_CPP_MIN_LOG_LEVEL": "2"})
            jobs[row.slice.name] = {"worker_pool_specs": specs}
    return json.dumps(jobs, indent=1) + "\n"


@functools.cache
def compiled(*overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the two documents of the quickstart compiled for Kubeflow with a TPU."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pipeline.yaml"
        words = ["run.dir=/mnt/wgan", "deploy.volume_claim=wgan", "train.devices=tpu", f"deploy.tpu_image={IMAGE}", *overrides]
        compiler.compile_pipeline(load_config(QUICKSTART, words), out)
        spec, platform = yaml.load_all(out.read_text(), yaml.CSafeLoader)
    return spec, platform


def kubernetes(overrides: list[str]) -> str:
    """Return train's container and the second document, which has the Kubernetes settings."""
    spec, platform = compiled(*overrides)
    container = spec["deploymentSpec"]["executors"]["exec-train"]["container"]
    placed = {"image": container["image"], "resources": container["resources"]}
    return "".join(["# train's container\n", yaml.safe_dump(placed), "---\n", yaml.safe_dump(platform)])


def vertex_train(overrides: list[str]) -> str:
    """Return train of the quickstart compiled for Vertex AI with a TPU: its launcher and the parameters of its custom job."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pipeline.yaml"
        words = ["run.dir=/gcs/bucket/wgan", "train.devices=tpu", f"deploy.tpu_image={IMAGE}", *overrides]
        compile_for_vertex(load_config(QUICKSTART, words), out)
        (spec,) = yaml.load_all(out.read_text(), yaml.CSafeLoader)
    parts = {"executor": spec["deploymentSpec"]["executors"]["exec-train"], "component": spec["components"]["comp-train"]}
    return str(yaml.safe_dump(parts))


def golden_texts() -> dict[str, str]:
    """Return the text of every golden file by name."""
    files = {f"kubernetes-{name}.yaml": kubernetes(overrides) for name, overrides in KUBERNETES.items()}
    files |= {f"vertex-{name}.yaml": vertex_train(overrides) for name, overrides in VERTEX.items()}
    return {"vertex_custom_jobs.json": vertex(), **files}


def main() -> None:
    """Write the golden files."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in golden_texts().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
