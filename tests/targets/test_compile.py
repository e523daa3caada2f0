"""The compiled files: valid PipelineSpecs with the settings of each platform, written without TensorFlow."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import components
from kfp.pipeline_spec import pipeline_spec_pb2

from components.common.errors import ConfigError
from components.common.journal import STEPS
from pipeline.config import RunConfig, load_config, with_folders
from pipeline.targets.kubeflow import compiler as kubeflow
from pipeline.targets.vertex import compiler as vertex
from tests.support.kubernetes_types import check

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.toml"
COMPILE = {"kubeflow": kubeflow.compile_pipeline, "vertex": vertex.compile_pipeline}


WHERE = {"kubeflow": ["run.dir=/mnt/wgan", "deploy.volume_claim=wgan"], "vertex": ["run.dir=/gcs/bucket/wgan"]}


def config_of(target: str, *overrides: str) -> RunConfig:
    return load_config(QUICKSTART, [*WHERE[target], *overrides])


def compiled(target: str, *overrides: str) -> list[dict[str, Any]]:
    """Return the documents of the quickstart compiled for a target."""
    return list(yaml.load_all(text_of(target, *overrides), yaml.CSafeLoader))


@functools.cache
def text_of(target: str, *overrides: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pipeline.yaml"
        COMPILE[target](config_of(target, *overrides), out)
        return out.read_text()


@pytest.fixture(params=["kubeflow", "vertex"])
def spec(request: pytest.FixtureRequest) -> dict[str, Any]:
    documents = compiled(request.param)
    assert len(documents) == {"kubeflow": 2, "vertex": 1}[request.param], "Vertex refuses a file of two documents"
    return documents[0]


def test_the_file_is_a_pipeline_spec(spec: dict[str, Any]) -> None:
    message = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    executors = dict(message.deployment_spec["executors"].items())
    assert set(executors) == {f"exec-{step}" for step in ("snapshot", *STEPS, "report")}


def test_kfp_loads_the_file(spec: dict[str, Any]) -> None:
    assert components.load_component_from_text(yaml.safe_dump(spec)).name == "wgan-tpu-pipeline"


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_the_form_shows_typed_parameters_with_the_values_of_the_config_and_nothing_else(target: str) -> None:
    spec, *_ = compiled(target, "train.rounds=70", "push.publish=false")
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert {name: (each["parameterType"], each["defaultValue"]) for name, each in parameters.items()} == {
        "source": ("STRING", "digits"),
        "image_size": ("NUMBER_INTEGER", 8),
        "rounds": ("NUMBER_INTEGER", 70),
        "batch": ("NUMBER_INTEGER", 64),
        "seed": ("NUMBER_INTEGER", 0),
        "devices": ("STRING", "cpu:1"),
        "publish": ("BOOLEAN", False),
        "overrides": ("LIST", []),
    }
    assert all(each["isOptional"] for each in parameters.values())
    assert parameters["rounds"]["description"] == "Rounds to train, including those of an earlier, interrupted attempt."


def test_config_and_work_dir_are_constants_of_the_file(spec: dict[str, Any]) -> None:
    """Where the history of a source is follows from the source, which a run may change, so it is not in the file."""
    steps = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    inputs = [task["inputs"]["parameters"] for task in (spec["root"]["dag"]["tasks"]["report"], steps["snapshot"])]
    assert inputs[0]["run"] == inputs[1]["run"]
    config = json.loads(inputs[0]["run"]["runtimeValue"]["constant"])["config"]
    assert (config["train"]["rounds"], config["validate"]["history"]) == (3000, "")
    folder = config["run"]["dir"]
    assert {steps[step]["inputs"]["parameters"]["work_dir"]["runtimeValue"]["constant"] for step in STEPS} == {
        f"{folder}/.work"
    }


@pytest.mark.parametrize("device", ["cpu:1", "tpu"])
@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_steps_have_outputs_of_the_types_that_the_platforms_show(target: str, device: str) -> None:
    types = {
        f"{step}.{name}": output["artifactType"]["schemaTitle"]
        for step in (*STEPS, "report")
        for name, output in compiled(target, f"train.devices={device}")[0]["components"][f"comp-{step}"]["outputDefinitions"][
            "artifacts"
        ].items()
    }
    shown = {output: title for output, title in types.items() if title in {"system.Metrics", "system.Markdown", "system.HTML"}}
    assert shown == {
        "validate.findings": "system.HTML",
        "train.curves": "system.HTML",
        "evaluate.metrics": "system.Metrics",
        "evaluate.scores": "system.Markdown",
        "gate.checks": "system.Markdown",
        "gate.metrics": "system.Metrics",
        "push.metrics": "system.Metrics",
        "push.outcome": "system.Markdown",
        "report.page": "system.HTML",
    }


def test_snapshot_push_and_report_are_never_cached(spec: dict[str, Any]) -> None:
    """They depend on the source and its history, on the registry, and on this run."""
    tasks = {**spec["root"]["dag"]["tasks"], **spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]}
    cached = {name for name, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")}
    assert cached - {"exit-handler-1"} == {"ingest", "validate", "train", "evaluate"}
    for step in STEPS:
        for name in ("config", "key"):
            assert tasks[step]["inputs"]["parameters"][name]["taskOutputParameter"] == {
                "outputParameterKey": f"{step}_{name}",
                "producerTask": "snapshot",
            }


def test_the_report_is_the_exit_handler_and_gets_the_start_time(spec: dict[str, Any]) -> None:
    report = spec["root"]["dag"]["tasks"]["report"]
    assert report["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    created = report["inputs"]["parameters"]["created_at"]["runtimeValue"]["constant"]
    assert created == "{{$.pipeline_job_create_time_utc}}"


@pytest.mark.parametrize("device", ["cpu:1", "tpu"])
@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_no_shell_stays_between_the_platform_and_a_step(target: str, device: str) -> None:
    """A shell does not forward SIGTERM, after which train saves."""
    text = text_of(target, f"train.devices={device}")
    executors = len(compiled(target, f"train.devices={device}")[0]["deploymentSpec"]["executors"])
    assert text.count("exec python3 -m kfp.dsl.executor_main ") == text.count("kfp.dsl.executor_main") == executors


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_the_image_is_the_configured_one_and_nothing_is_installed(target: str) -> None:
    spec, *_ = compiled(target, "deploy.image=registry.example/wgan@sha256:0")
    for executor in spec["deploymentSpec"]["executors"].values():
        assert executor["container"]["image"] == "registry.example/wgan@sha256:0"
        assert "pip install" not in json.dumps(executor)


@pytest.mark.parametrize(
    ("secret", "keys"),
    [
        ("wgan-s3", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]),
        ("mlpipeline-minio-artifact", ["accesskey", "secretkey"]),
    ],
)
def test_without_a_volume_every_step_gets_the_bucket(secret: str, keys: list[str]) -> None:
    overrides = ["run.dir=s3://bucket/wgan", "deploy.volume_claim=", f"deploy.s3_secret={secret}"]
    spec, platform = compiled("kubeflow", *overrides, "deploy.s3_endpoint=http://seaweedfs:8333", "deploy.s3_region=minio")
    constant = spec["root"]["dag"]["tasks"]["report"]["inputs"]["parameters"]["run"]["runtimeValue"]["constant"]
    found = with_folders(RunConfig.model_validate_json(json.dumps(json.loads(constant)["config"])))
    assert found.work_dir == "s3://bucket/wgan/.work"
    assert (found.registry, found.history) == ("s3://bucket/wgan/registry", "s3://bucket/wgan/snapshots/digits")
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == {f"exec-{step}" for step in ("snapshot", *STEPS, "report")}
    for name, executor in executors.items():
        assert "pvcMount" not in executor
        (given,) = executor["secretAsEnv"]
        assert given["secretName"] == secret
        assert [each["secretKey"] for each in given["keyToEnv"]] == keys
        assert [each["envVar"] for each in given["keyToEnv"]] == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
        environment = {each["name"]: each["value"] for each in spec["deploymentSpec"]["executors"][name]["container"]["env"]}
        assert environment == {"AWS_ENDPOINT_URL": "http://seaweedfs:8333", "AWS_DEFAULT_REGION": "minio"}


def test_the_google_key_is_mounted_and_not_part_of_the_file() -> None:
    spec, platform = compiled("kubeflow", "deploy.google_key_secret=wgan-google-key")
    for name, executor in spec["deploymentSpec"]["executors"].items():
        environment = {each["name"]: each["value"] for each in executor["container"]["env"]}
        assert environment == {"GOOGLE_APPLICATION_CREDENTIALS": "/var/run/secrets/google/key.json"}
        (secret,) = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][name]["secretAsVolume"]
        assert (secret["secretName"], secret["mountPath"]) == ("wgan-google-key", "/var/run/secrets/google")


REFUSED = [
    ("vertex", ["deploy.tpu_topology=v4:2x2x1"], "deploy.tpu_topology = 'v4:2x2x1': Vertex AI has no TPU v4 to train on; use"),
    ("kubeflow", ["deploy.tpu_topology=v2:2x2"], "deploy.tpu_topology = 'v2:2x2': GKE has no TPU v2 to train on; use v3:2x2,"),
    (
        "kubeflow",
        ["deploy.tpu_platform=vertex"],
        "deploy.tpu_platform = 'vertex', but this target runs on GKE. Use --set deploy.tpu_platform=gke.",
    ),
]


@pytest.mark.parametrize(("target", "overrides", "sentence"), REFUSED)
def test_a_target_refuses_a_tpu_it_cannot_train_on(target: str, overrides: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        COMPILE[target](config_of(target, "train.devices=tpu", *overrides), tmp_path / "p.yaml")
    assert str(caught.value).startswith(sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_compiling_imports_no_tensorflow(target: str, tmp_path: Path) -> None:
    words = ["compile", str(QUICKSTART), "--target", target, "-o", str(tmp_path / "p.yaml")]
    words += [word for setting in WHERE[target] for word in ("--set", setting)]
    script = (
        f"import sys; sys.argv = ['wgan-pipeline', *{words!r}]\nfrom pipeline.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'tensorflow', 'keras', 'apache_beam', 'sklearn'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.yaml").is_file()


def test_bodies_of_steps_have_at_most_six_statements() -> None:
    tree = ast.parse((ROOT / "pipeline" / "steps.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list]
    assert {function.name for function in functions} == {"snapshot", *STEPS, "tpu_check", "report"}
    for function in functions:
        statements = [node for node in ast.walk(function) if isinstance(node, ast.stmt) and node is not function]
        assert len(statements) <= 6, function.name


def test_the_graph_has_no_branch() -> None:
    text = (ROOT / "pipeline" / "graph.py").read_text()
    assert "dsl.If" not in text.replace("(decision 0003)", "")
    assert not any(isinstance(node, ast.If) for node in ast.walk(ast.parse(text)))


def test_tpu_check_runs_before_train_on_a_tpu_only() -> None:
    plain, *_ = compiled("kubeflow")
    without, *_ = compiled("kubeflow", "train.devices=tpu", "deploy.tpu_check=false")
    assert "exec-tpu-check" not in {**plain["deploymentSpec"]["executors"], **without["deploymentSpec"]["executors"]}
    spec, platform = compiled("kubeflow", "train.devices=tpu", "deploy.tpu_topology=v5e:2x2")
    tasks = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert "tpu-check" in tasks["train"]["dependentTasks"]
    assert tasks["tpu-check"]["dependentTasks"] == ["ingest", "snapshot"]
    check = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-tpu-check"]
    assert not {"nodeSelector", "tolerations"} & set(check), "on a CPU machine"
    image = spec["deploymentSpec"]["executors"]["exec-tpu-check"]["container"]["image"]
    assert image == "localhost/wgan-tpu-pipeline:tpu-check", "the one with the compiler"
    assert (
        tasks["tpu-check"]["inputs"]["parameters"]["config"]["taskOutputParameter"]["outputParameterKey"] == "tpu_check_config"
    )


def kubernetes_of(*overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tasks of the graph and the Kubernetes settings of each step."""
    spec, platform = compiled("kubeflow", *overrides)
    tasks = {**spec["root"]["dag"]["tasks"], **spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]}
    return tasks, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_kubeflow_steps_have_an_unprivileged_user_a_timeout_and_labels() -> None:
    _, executors = kubernetes_of("deploy.timeout_hours=1.5")
    assert set(executors) == {f"exec-{step}" for step in ("snapshot", *STEPS, "report")}
    for name, each in executors.items():
        assert each["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        assert each["activeDeadlineSeconds"] == "5400"
        assert each["podMetadata"]["labels"]["app.kubernetes.io/component"] == name.removeprefix("exec-")


def test_kubernetes_settings_match_the_types_of_its_api() -> None:
    """KFP passes these parts to the pod unchanged; numbers are strings, as in protobuf's JSON."""
    overrides = ["train.devices=tpu", "deploy.tpu_spot=true", "deploy.volume_claim=wgan", "deploy.google_key_secret=k"]
    _, executors = kubernetes_of(*overrides)
    for name, each in executors.items():
        context = {key: int(value) if str(value).isdigit() else value for key, value in each["securityContext"].items()}
        check(context, "V1SecurityContext", name)
        check(each["podMetadata"], "V1ObjectMeta", name)
        for toleration in each.get("tolerations", []):
            check(toleration, "V1Toleration", name)
        for mount in [*each["pvcMount"], *each["secretAsVolume"]]:
            check({"name": "volume", "mountPath": mount["mountPath"]}, "V1VolumeMount", name)
        labels = each.get("nodeSelector", {}).get("labels", {})
        for key, value in {**labels, **each["podMetadata"]["labels"]}.items():
            assert re.fullmatch(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9._-]{1,63}", key)
            assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value)
    assert executors["exec-train"]["tolerations"]
    assert not any("tolerations" in each for name, each in executors.items() if name != "exec-train")


def test_only_repeatable_steps_are_retried() -> None:
    tasks, _ = kubernetes_of("deploy.retries=3")
    policies = {name: task["retryPolicy"] for name, task in tasks.items() if "retryPolicy" in task}
    assert set(policies) == {"ingest", "train", "evaluate", "gate", "push"}
    for policy in policies.values():
        assert policy == {"maxRetryCount": 3, "backoffDuration": "60s", "backoffFactor": 2.0, "backoffMaxDuration": "900s"}
    tasks, _ = kubernetes_of("deploy.retries=0")
    assert not any("retryPolicy" in task for task in tasks.values())


def test_kubeflow_steps_request_cpu_and_memory() -> None:
    spec, _ = compiled("kubeflow", "deploy.cpu=500m", "deploy.memory=12Gi")
    for executor in spec["deploymentSpec"]["executors"].values():
        resources = executor["container"]["resources"]
        assert (resources["resourceCpuRequest"], resources["resourceMemoryRequest"]) == ("500m", "12Gi")


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_an_image_without_digest_is_refused_if_digests_are_required(target: str) -> None:
    with pytest.raises(ConfigError, match=r"deploy\.image = 'registry\.example/wgan:1' has no digest"):
        compiled(target, "deploy.require_digests=true", "deploy.image=registry.example/wgan:1")
    named = f"registry.example/wgan@sha256:{'0' * 64}"
    assert compiled(target, "deploy.require_digests=true", f"deploy.image={named}")
    if target == "kubeflow":  # Vertex takes no TPU here
        with pytest.raises(ConfigError, match=r"deploy\.tpu_image = .* has no digest, and deploy\.require_digests is set"):
            compiled(target, "deploy.require_digests=true", f"deploy.image={named}", "train.devices=tpu")
