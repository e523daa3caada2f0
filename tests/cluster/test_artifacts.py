"""What Kubeflow's user interface shows of a run: numbers in ML Metadata, pages and texts in the object store."""

from __future__ import annotations

import os

import pytest

from components.evaluate.metrics.table import finite_values
from tests.cluster.artifacts import Artifact, artifacts_of, readers_of
from tests.cluster.cluster import Cluster, Run
from tests.cluster.store import store_of

TYPES = {
    ("validate", "findings"): "system.HTML",
    ("train", "curves"): "system.HTML",
    ("evaluate", "metrics"): "system.Metrics",
    ("evaluate", "scores"): "system.Markdown",
    ("gate", "verdict"): "system.Artifact",
    ("gate", "metrics"): "system.Metrics",
    ("gate", "checks"): "system.Markdown",
    ("push", "metrics"): "system.Metrics",
    ("push", "outcome"): "system.Markdown",
    ("report", "page"): "system.HTML",
}


@pytest.fixture(scope="module")
def artifacts(first_run: Run) -> dict[tuple[str, str], Artifact]:
    if not (address := os.environ.get("CLUSTER_METADATA")):
        pytest.skip("METADATA=HOST:PORT is not given: a port-forward of metadata-grpc-service")
    return artifacts_of(first_run.id, address)


def test_their_types(artifacts: dict[tuple[str, str], Artifact]) -> None:
    assert {key: artifacts[key].type for key in TYPES} == TYPES


def test_the_scores_are_numbers(
    cluster: Cluster, first_run: Run, shell: str, artifacts: dict[tuple[str, str], Artifact]
) -> None:
    scores = finite_values(first_run.summary(shell)["evaluate"])
    shown = artifacts["evaluate", "metrics"].metadata
    assert {"fid", "kid", "precision", "recall"} <= scores.keys()
    assert {name: shown[name] for name in scores} == pytest.approx(scores, rel=1e-3)  # summary.json rounds them less


def test_the_verdict_is_between_evaluate_and_push(artifacts: dict[tuple[str, str], Artifact]) -> None:
    address = os.environ["CLUSTER_METADATA"]
    assert artifacts["gate", "verdict"].metadata["decision"] == "blessed"
    assert artifacts["gate", "metrics"].metadata["blessed"] == artifacts["push", "metrics"].metadata["published"] == 1
    assert "gate" in readers_of(artifacts["evaluate", "evaluation"], address)
    assert "push" in readers_of(artifacts["gate", "verdict"], address)


def test_pages_and_texts_are_in_the_object_store(cluster: Cluster, artifacts: dict[tuple[str, str], Artifact]) -> None:
    files = store_of(cluster).files
    begins = {"system.HTML": "<!doctype html>", "system.Markdown": "#"}
    for name, kind in TYPES.items():
        if kind in begins:
            text = files.cat_file(artifacts[name].uri.removeprefix("minio://")).decode()
            assert text.lower().startswith(begins[kind]), (name, text[:100])
