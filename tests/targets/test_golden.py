"""The golden files: the requests to Vertex AI and Kubernetes; tests/support/golden_files.py writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from google.cloud.aiplatform_v1 import CustomJobSpec, WorkerPoolSpec  # noqa: TID251 - the reference
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2

from tests.support import golden_files


@pytest.fixture(scope="module")
def current() -> dict[str, str]:
    return golden_files.golden_texts()


def test_the_golden_files_are_current(current: dict[str, str]) -> None:
    assert set(current) == {file.name for file in golden_files.FOLDER.iterdir()}
    for name, text in current.items():
        assert text == (golden_files.FOLDER / name).read_text(), (
            f"{name}: python -m tests.support.golden_files writes the change"
        )


@pytest.mark.parametrize("name", golden_files.KUBERNETES)
def test_the_kubernetes_document_is_valid(name: str) -> None:
    placed, document = yaml.safe_load_all((golden_files.FOLDER / f"kubernetes-{name}.yaml").read_text())
    executors: dict[str, Any] = document["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for each in executors.values():
        json_format.ParseDict(each, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    assert placed["resources"]["accelerator"]["resourceType"] == "google.com/tpu"
    assert [each for each in executors if "nodeSelector" in executors[each]] == ["exec-train"]


def test_custom_jobs_are_messages_of_vertex() -> None:
    for name, job in json.loads((golden_files.FOLDER / "vertex_custom_jobs.json").read_text()).items():
        (pool,) = CustomJobSpec.from_json(json.dumps(job)).worker_pool_specs
        assert pool.machine_spec.machine_type, name
        with pytest.raises(ValueError, match="Unknown field"):
            WorkerPoolSpec({**job["worker_pool_specs"][0], "topology": "2x2"})


def test_train_alone_has_the_image_for_tpus() -> None:
    spec, _ = golden_files.compiled("deploy.tpu_topology=v5e:2x4")
    images = {name: executor["container"]["image"] for name, executor in spec["deploymentSpec"]["executors"].items()}
    assert [name for name, image in images.items() if image == golden_files.IMAGE] == ["exec-train"]
