"""The golden files hold what is sent to Vertex AI and Kubernetes; tests/support/golden_files.py writes them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2

from pipeline.platforms import find_training_row, gke_limits, gke_node_selector
from tests.support import golden_files


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return golden_files.made()


def test_the_golden_files_are_what_is_made(made: dict[str, str]) -> None:
    assert set(made) == {file.name for file in golden_files.FOLDER.iterdir()}
    for name, text in made.items():
        assert text == (golden_files.FOLDER / name).read_text(), (
            f"{name}: python -m tests.support.golden_files shows the change"
        )


@pytest.mark.parametrize("name", golden_files.KUBERNETES)
def test_the_kubernetes_document_is_valid_and_agrees_with_the_row(name: str) -> None:
    placed, document = yaml.load_all((golden_files.FOLDER / f"kubernetes-{name}.yaml").read_text(), yaml.CSafeLoader)
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
    assert {accelerator["resourceType"]: int(accelerator["resourceCount"])} == gke_limits(row)
    assert placed["image"] == golden_files.IMAGE


def test_one_step_has_the_image_for_tpus() -> None:
    spec, _ = golden_files.compiled("deploy.tpu_topology=v5e:2x4")
    images = {name: executor["container"]["image"] for name, executor in spec["deploymentSpec"]["executors"].items()}
    assert [name for name, image in images.items() if image == golden_files.IMAGE] == ["exec-train"]
