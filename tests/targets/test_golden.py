"""The golden files: the requests to Vertex AI and Kubernetes; tests/support/golden_files.py writes them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2

from pipeline.platforms import find_training_row, gke_node_selector
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
def test_the_kubernetes_document_is_valid_and_matches_the_row(name: str) -> None:
    placed, document = yaml.safe_load_all((golden_files.FOLDER / f"kubernetes-{name}.yaml").read_text())
    executors: dict[str, Any] = document["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for each in executors.values():
        json_format.ParseDict(each, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    config = json_format.ParseDict(executors["exec-train"], kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    generation, topology, *spot = name.split("-")
    row = find_training_row("gke", f"{generation}:{topology}")
    assert dict(config.node_selector.labels) == gke_node_selector(row, spot=bool(spot))
    assert {toleration.key for toleration in config.tolerations} == {
        "google.com/tpu",
        *(["cloud.google.com/gke-spot"] * len(spot)),
    }
    accelerator = placed["resources"]["accelerator"]
    assert (accelerator["resourceType"], int(accelerator["resourceCount"])) == ("google.com/tpu", row.chips_per_host)
    assert placed["image"] == golden_files.IMAGE


def test_train_alone_has_the_image_for_tpus() -> None:
    spec, _ = golden_files.compiled("deploy.tpu_topology=v5e:2x4")
    images = {name: executor["container"]["image"] for name, executor in spec["deploymentSpec"]["executors"].items()}
    assert [name for name, image in images.items() if image == golden_files.IMAGE] == ["exec-train"]
