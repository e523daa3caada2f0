"""What Kubeflow's user interface shows of a run: numbers in ML Metadata, pages and texts in the object store."""

from __future__ import annotations

import base64
import json
import os

import fsspec
import pytest

from components.evaluate.metrics.table import finite_values
from tests.cluster.artifacts import Artifact, artifacts_of
from tests.cluster.cluster import Cluster, Run

TYPES = {
    ("validate", "findings"): "system.HTML",
    ("train", "curves"): "system.HTML",
    ("evaluate", "metrics"): "system.Metrics",
    ("evaluate", "scores"): "system.Markdown",
    ("gate", "metrics"): "system.Metrics",
    ("gate", "checks"): "system.Markdown",
    ("push", "metrics"): "system.Metrics",
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


def test_pages_and_texts_are_in_the_object_store(cluster: Cluster, artifacts: dict[tuple[str, str], Artifact]) -> None:
    if not (store := os.environ.get("CLUSTER_STORE")):
        pytest.skip("STORE=URL is not given: a port-forward of Kubeflow's object store")
    secret = json.loads(cluster.kubectl("get", "secret", "mlpipeline-minio-artifact", "--output", "json"))["data"]
    key, value = (base64.b64decode(secret[name]).decode() for name in ("accesskey", "secretkey"))
    region = json.loads(artifacts["report", "page"].metadata["store_session_info"])["Params"]["region"]
    options = {"endpoint_url": store, "region_name": region}
    files = fsspec.filesystem("s3", key=key, secret=value, client_kwargs=options)
    begins = {"system.HTML": "<!doctype html>", "system.Markdown": "#"}
    for name, kind in TYPES.items():
        if kind in begins:
            text = files.cat_file(artifacts[name].uri.removeprefix("minio://")).decode()
            assert text.lower().startswith(begins[kind]), (name, text[:100])
