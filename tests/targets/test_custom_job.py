"""Train on a TPU of Vertex AI: the compiled file contains a custom job that Vertex's own messages accept."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud import aiplatform_v1  # noqa: TID251 - the reference
from google.protobuf import json_format
from google_cloud_pipeline_components.container.v1.gcp_launcher.utils import json_util
from google_cloud_pipeline_components.v1.custom_job import create_custom_training_job_from_component

from components.common.errors import ConfigError
from pipeline import steps
from pipeline.config import load_config
from pipeline.targets.vertex import compiler

ROOT = Path(__file__).parents[2]
IMAGE = "europe-west4-docker.pkg.dev/p/wgan/train-tpu@sha256:" + "0" * 64
ACCOUNT = "wgan@p.iam.gserviceaccount.com"
KEY = "projects/p/locations/europe-west4/keyRings/r/cryptoKeys/k"
NETWORK = "projects/1/global/networks/n"
BOARD = "projects/p/locations/europe-west4/tensorboards/1"
DEPLOY = [
    f"deploy.tpu_image={IMAGE}", f"deploy.service_account={ACCOUNT}", f"deploy.kms_key={KEY}", f"deploy.network={NETWORK}",
    f"deploy.tensorboard={BOARD}", "deploy.pipeline_root=gs://b/root", "deploy.timeout_hours=12",
]  # fmt: skip


def compiled(folder: Path, *overrides: str) -> dict[str, Any]:
    out = folder / "vertex.yaml"
    config = load_config(
        ROOT / "configs" / "quickstart.toml", ["run.dir=/gcs/b/wgan", "train.devices=tpu", *DEPLOY, *overrides]
    )
    compiler.compile_pipeline(config, out)
    (spec,) = yaml.safe_load_all(out.read_text())
    return dict(spec)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The compiled file of the settings above."""
    return compiled(tmp_path_factory.mktemp("compiled"))


def job(spec: dict[str, Any]) -> Any:
    """Return the custom job that the launcher would request, with placeholders filled in, as Vertex's message."""
    container = spec["deploymentSpec"]["executors"]["exec-train"]["container"]
    payload = container["args"][container["args"].index("--payload") + 1]
    parameters = spec["components"]["comp-train"]["inputDefinitions"]["parameters"]

    def filled(found: re.Match[str]) -> str:
        value = parameters[found[1]].get(
            "defaultValue", {"LIST": [], "STRUCT": {}}.get(parameters[found[1]]["parameterType"], "")
        )
        return value if isinstance(value, str) else json.dumps(value)

    text = re.sub(r"\{\{\$\.inputs\.parameters\['(\w+)'\]\}\}", filled, payload)
    request = json_util.recursive_remove_empty(json.loads(text.replace("{{$.json_escape[1]}}", "EXECUTOR_INPUT")))
    request["job_spec"].pop("persistent_resource_id")  # a placeholder that is empty here
    if request["job_spec"]["scheduling"]["strategy"] != "FLEX_START":
        del request["job_spec"]["scheduling"]["max_wait_duration"]  # as the launcher does
    return aiplatform_v1.CustomJob.wrap(json_format.ParseDict(request, aiplatform_v1.CustomJob.pb()()))


def test_the_job_has_the_settings_of_the_config(tmp_path: Path) -> None:
    request = job(compiled(tmp_path, "deploy.tpu_topology=v5e:2x4", "deploy.tpu_spot=true"))
    (pool,) = request.job_spec.worker_pool_specs
    assert (pool.machine_spec.machine_type, pool.machine_spec.tpu_topology) == ("ct5lp-hightpu-8t", "2x4")
    assert (pool.replica_count, pool.container_spec.image_uri) == (1, IMAGE)
    assert request.job_spec.scheduling.strategy.name == "SPOT"
    assert request.job_spec.scheduling.restart_job_on_worker_restart
    assert request.job_spec.scheduling.timeout.total_seconds() == 12 * 3600
    assert request.job_spec.service_account == ACCOUNT
    assert request.job_spec.network == NETWORK
    assert request.job_spec.tensorboard == BOARD
    assert request.job_spec.base_output_directory.output_uri_prefix == "gs://b/root/tensorboard"
    assert request.encryption_spec.kms_key_name == KEY
    assert dict(request.labels) == {"pipeline": "wgan-tpu-pipeline", "component": "train"}


def test_the_job_runs_the_command_of_the_other_targets(spec: dict[str, Any]) -> None:
    """The command and arguments are the same, except for the escape that a payload needs."""
    (pool,) = job(spec).job_spec.worker_pool_specs
    container = json_format.MessageToDict(steps.train.pipeline_spec)["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert list(pool.container_spec.command) == container["command"]
    words = [{"{{$}}": "EXECUTOR_INPUT"}.get(word, word) for word in container["args"]]
    assert list(pool.container_spec.args) == words


def test_everything_but_the_machine_equals_the_library_component(spec: dict[str, Any]) -> None:
    theirs = json_format.MessageToDict(create_custom_training_job_from_component(steps.train).pipeline_spec)
    (component,) = theirs["components"].values()
    ours = spec
    assert ours["components"]["comp-train"]["inputDefinitions"].keys() == component["inputDefinitions"].keys()
    names = ours["components"]["comp-train"]["inputDefinitions"]["parameters"].keys()
    assert names == component["inputDefinitions"]["parameters"].keys()
    outputs = ours["components"]["comp-train"]["outputDefinitions"]
    assert {kind: list(names) for kind, names in outputs.items()} == {
        "artifacts": ["curves", "model"],
        "parameters": ["gcp_resources"],
    }
    (executor,) = theirs["deploymentSpec"]["executors"].values()
    launcher = ours["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert launcher == executor["container"]


def test_the_task_is_named_train_and_other_steps_are_containers(spec: dict[str, Any]) -> None:
    tasks = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert set(tasks) == {"snapshot", "ingest", "validate", "tpu-check", "train", "evaluate", "gate", "push"}
    assert tasks["train"]["retryPolicy"]["maxRetryCount"] == 2
    resources = spec["deploymentSpec"]["executors"]["exec-ingest"]["container"]["resources"]
    assert (resources["resourceCpuLimit"], resources["resourceMemoryLimit"]) == ("2", "8G")
    assert "resources" not in spec["deploymentSpec"]["executors"]["exec-train"]["container"]


def test_a_missing_library_is_reported_with_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google_cloud_pipeline_components.v1.custom_job", None)
    with pytest.raises(ConfigError, match=re.escape("Install wgan-tpu-pipeline[vertex].")):
        compiled(tmp_path)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("deploy.service_account=", "deploy.tensorboard needs deploy.service_account"),
        ("deploy.pipeline_root=", "deploy.tensorboard needs deploy.pipeline_root"),
        ("deploy.network=default", "deploy.network"),
        ("deploy.kms_key=key", "deploy.kms_key"),
        ("deploy.pipeline_root=/gcs/b", "deploy.pipeline_root"),
    ],
)
def test_settings_that_vertex_would_refuse_are_refused_when_read(tmp_path: Path, override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        compiled(tmp_path, override)


def test_compiling_needs_no_account_no_network_and_no_environment(tmp_path: Path) -> None:
    code = f"""
import socket, google.auth
def never(*_, **__): raise AssertionError("asked")
google.auth.default = socket.socket.connect = socket.getaddrinfo = never
from tests.targets.test_custom_job import compiled
from pathlib import Path
compiled(Path({str(tmp_path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "vertex.yaml").exists()
