"""The parameters of the compiled file, as Kubeflow's API returns them and as its form sends them."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import CONFIG, Cluster, Run

TYPES = {
    "source": "STRING", "image_size": "NUMBER_INTEGER", "rounds": "NUMBER_INTEGER", "batch": "NUMBER_INTEGER",
    "seed": "NUMBER_INTEGER", "devices": "STRING", "publish": "BOOLEAN", "overrides": "LIST",
}  # fmt: skip


@pytest.fixture(scope="module")
def compiled(cluster: Cluster, first_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    code, output = cluster.command("compile", str(CONFIG), *cluster.settings(), "--target", "kubeflow", "-o", str(file))
    assert code == 0, output
    return file


def test_a_run_of_a_compiled_file_with_its_own_parameters(cluster: Cluster, compiled: Path, shell: str, tmp_path: Path) -> None:
    run = cluster.submit(tmp_path / "output", "train.rounds=20", "evaluate.samples=150", file=compiled)
    code, output = run.wait()
    assert code == 0, output
    details = cluster.api(f"runs/{run.id}")
    version = details["pipeline_version_reference"]
    path = f"pipelines/{version['pipeline_id']}/versions/{version['pipeline_version_id']}"
    spec = cluster.api(path)["pipeline_spec"]
    form = spec.get("pipeline_spec", spec)["root"]["inputDefinitions"]["parameters"]
    assert {name: parameter["parameterType"] for name, parameter in form.items()} == TYPES
    assert (form["rounds"]["defaultValue"], form["source"]["defaultValue"]) == (40, "digits")
    assert details["runtime_config"]["parameters"]["rounds"] == 20
    config = json.loads(cluster.kubectl("exec", shell, "--", "cat", f"{cluster.folder}/{run.name}/config.json"))
    assert (config["train"]["rounds"], config["evaluate"]["samples"]) == (20, 150)


def test_a_wrong_override_in_the_form_ends_the_run_in_its_first_step(cluster: Cluster, compiled: Path, tmp_path: Path) -> None:
    first = cluster.submit(tmp_path / "first", file=compiled)  # uploads the file
    version = cluster.api(f"runs/{first.id}")["pipeline_version_reference"]
    first.end()
    body = {"display_name": f"{cluster.name}-form", "pipeline_version_reference": version, "service_account": cluster.name}
    run_id = post(cluster, "runs", body | {"runtime_config": {"parameters": {"overrides": ["train.round=5"]}}})["run_id"]
    code, output = cluster.command("submit", "--follow", run_id, *cluster.platform())
    assert code == 1, output
    last = output.splitlines()[-1]
    assert last.startswith("Failed: snapshot failed"), output
    assert "did you mean" in last


def post(cluster: Cluster, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of Kubeflow's API to what its form sends."""
    request = urllib.request.Request(f"{cluster.host}/apis/v2beta1/{path}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read()))
