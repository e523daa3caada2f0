"""deploy/: manifests against the types of Kubernetes, Terraform against the types of the provider, and examples."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from components.common.errors import ConfigError
from pipeline.config import RunConfig, load_config
from pipeline.cron import parse_cron
from pipeline.targets.kubeflow import compiler as kubeflow
from pipeline.targets.vertex import compiler as vertex
from tests.support.kubernetes_types import check

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(path.name for path in (DEPLOY / "kubeflow" / "overlays").iterdir())
TYPES = {
    "Namespace": "V1Namespace", "ServiceAccount": "V1ServiceAccount", "Role": "V1Role", "RoleBinding": "V1RoleBinding",
    "NetworkPolicy": "V1NetworkPolicy", "PersistentVolumeClaim": "V1PersistentVolumeClaim", "ResourceQuota": "V1ResourceQuota",
    "ConfigMap": "V1ConfigMap",
}  # fmt: skip


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest, in_ci: bool) -> dict[str, Any]:
    """The objects of an overlay, by kind."""
    if shutil.which("kubectl") is None:
        pytest.fail("kubectl is missing") if in_ci else pytest.skip("kubectl is missing")
    folder = DEPLOY / "kubeflow" / "overlays" / request.param
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}


class TestKubeflow:
    def test_objects_match_the_types_of_kubernetes(self, objects: dict[str, Any]) -> None:
        assert set(objects) - {"PersistentVolumeClaim"} == set(TYPES) - {"PersistentVolumeClaim", "ConfigMap"}
        for kind, each in objects.items():
            check(each, TYPES[kind], kind)

    def test_objects_are_in_the_namespace_of_the_overlay(self, objects: dict[str, Any]) -> None:
        assert {each["metadata"].get("namespace", "kubeflow") for each in objects.values()} == {"kubeflow"}
        assert objects["RoleBinding"]["subjects"] == [
            {"kind": "ServiceAccount", "name": "wgan-runner", "namespace": "kubeflow"}
        ]

    def test_the_role_has_no_wildcard_and_names_its_secrets(self, objects: dict[str, Any]) -> None:
        for rule in objects["Role"]["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            if {"secrets", "configmaps"} & set(rule["resources"]):
                assert rule["resourceNames"]
                assert rule["verbs"] == ["get"]
            if "pods" in rule["resources"]:
                assert set(rule["verbs"]) <= {"get", "list", "watch"}

    def test_the_network_policy_selects_our_steps_only(self, objects: dict[str, Any], tmp_path: Path) -> None:
        policy = objects["NetworkPolicy"]["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert not policy.get("ingress")
        kubeflow.compile_pipeline(load_config(None, ["run.dir=/mnt/wgan", "deploy.volume_claim=wgan"]), tmp_path / "p.yaml")
        _, platform = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
        for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
            assert policy["podSelector"]["matchLabels"].items() <= executor["podMetadata"]["labels"].items()

    def test_without_buckets_no_step_reaches_the_internet(self) -> None:
        folder = DEPLOY / "kubeflow" / "overlays" / "shared-disk"
        (patched,) = yaml.safe_load_all((folder / "no-internet.yaml").read_text())
        assert all("to" in rule for rule in patched["spec"]["egress"])


def text(value: Any) -> Any:
    return value.strip('"') if isinstance(value, str) else value


def blocks(file: Path) -> dict[str, Any]:
    with file.open() as stream:
        return dict(hcl2.load(stream))


def plain(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if not name.startswith("__")}


class TestTerraform:
    FILES = sorted((DEPLOY / "vertex").glob("*.tf"))
    META = ("for_each", "count", "depends_on", "lifecycle", "provider")

    def resources(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for each in blocks(DEPLOY / "vertex" / "main.tf")["resource"]:
            ((kind, named),) = each.items()
            ((name, body),) = named.items()
            yield text(kind), text(name), plain(body)

    def provider(self) -> dict[str, Any]:
        return dict(json.loads((ROOT / "tests" / "support" / "google_provider.json").read_text())["resources"])

    def test_files_are_formatted(self, in_ci: bool) -> None:
        if shutil.which("terraform") is None:
            pytest.fail("terraform is missing") if in_ci else pytest.skip("terraform is missing")
        command = ["terraform", "fmt", "-check", "-diff", "-recursive", str(DEPLOY / "vertex")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_resources_have_the_arguments_of_the_provider(self) -> None:
        """Replaces `terraform validate`, which downloads the provider."""
        found = list(self.resources())
        assert {kind for kind, _, _ in found} == self.provider().keys()
        for kind, name, body in found:
            self.check_block({key: each for key, each in body.items() if key not in self.META}, self.provider()[kind], name)

    def check_block(self, body: dict[str, Any], known: dict[str, Any], where: str) -> None:
        for dynamic in body.pop("dynamic", []):
            ((name, content),) = plain(dynamic).items()
            (inner,) = content["content"]
            body[text(name)] = [inner]
        free = {"action": {"type"}, "condition": {"days_since_noncurrent_time"}}
        for key, value in body.items():
            if key in known["blocks"]:
                for each in value:
                    self.check_block(plain(each), known["blocks"][key], f"{where}.{key}")
            else:
                assert key in known["arguments"] or key in free, f"{where} does not have {key}"
        needed = {key for key, each in known["arguments"].items() if each == "required"}
        needed |= {key for key, each in known["blocks"].items() if each["required"]}
        assert not needed - body.keys(), f"{where} needs {needed - body.keys()}"

    def test_references_exist(self) -> None:
        whole = "\n".join(file.read_text() for file in self.FILES)
        names = {f"{kind}.{name}": kind for kind, name, _ in self.resources()}
        for reference, attribute in re.findall(r"\b(google_\w+\.\w+)\.(\w+)", whole):
            assert attribute in self.provider()[names[reference]]["attributes"], f"{reference}.{attribute}"
        variables = {text(name) for each in blocks(DEPLOY / "vertex" / "variables.tf")["variable"] for name in each}
        assert set(re.findall(r"\bvar\.(\w+)", whole)) <= variables
        example = blocks_of_example()
        assert set(example) <= variables

    def test_roles_are_narrow(self) -> None:
        found = list(self.resources())
        roles = {name: text(body.get("role", "")) for _, name, body in found if "role" in body}
        broad = {"roles/owner", "roles/editor", "roles/aiplatform.admin", "roles/aiplatform.user", "roles/storage.admin"}
        assert not broad & set(roles.values())
        on_project = [body for kind, _, body in found if kind == "google_project_iam_member"]
        assert all("google_project_iam_custom_role" in body["role"] for body in on_project)
        assert not any(kind.endswith("service_account_key") for kind, _, _ in found), "no key is created"

    def test_the_output_is_a_config_that_compiles(self, tmp_path: Path) -> None:
        written = (DEPLOY / "vertex" / "outputs.tf").read_text()
        (section,) = re.findall(r"<<-EOT\n(.*?)EOT", written, re.DOTALL)
        values = {"google_storage_bucket.wgan.name": "b", "google_service_account.steps.email": "s@p.iam.gserviceaccount.com"}
        filled = re.sub(r"\$\{([^}]*)\}", lambda found: values.get(found[1], ""), section)
        file = tmp_path / "c.toml"
        file.write_text("\n".join(line.strip() for line in filled.splitlines()))
        config = load_config(file)
        assert config.deploy.pipeline_root == "gs://b/root"
        vertex.compile_pipeline(config, tmp_path / "p.yaml")

    def test_the_schedule_equals_that_of_the_command_line(self) -> None:
        ((body,),) = [[body] for kind, _, body in self.resources() if kind == "google_vertex_ai_schedule"]
        assert (text(body["max_concurrent_run_count"]), body["allow_queueing"]) == ("1", False)
        (variable,) = [each for each in blocks(DEPLOY / "vertex" / "variables.tf")["variable"] if '"cron"' in each]
        zone, _, fields = text(variable['"cron"']["default"]).removeprefix("TZ=").partition(" ")
        assert parse_cron(fields, zone).for_vertex() == f"TZ={zone} {fields}"


def blocks_of_example() -> list[str]:
    return list(plain(blocks(DEPLOY / "vertex" / "terraform.tfvars.example")))


class TestSchedules:
    def settings(self, script: str, folder: Path, **variables: str) -> list[str]:
        """Return the settings that a script creates its schedule with; a program in PATH writes the arguments to a file."""
        program, called = folder / "wgan-pipeline", folder / "called"
        program.write_text(f'#!/bin/sh\n[ "$2" != create ] || printf "%s\\n" "$@" > {called}\n')
        program.chmod(0o755)
        environment = {"PATH": f"{folder}:{os.environ['PATH']}", **variables}
        done = subprocess.run(
            [DEPLOY / "schedules" / script], env=environment, capture_output=True, text=True, check=False, cwd=folder
        )
        assert done.returncode == 0, done.stderr
        words = called.read_text().splitlines()
        return [value for option, value in itertools.pairwise(words) if option == "--set"]

    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_the_schedule_of_kubeflow_compiles_with_the_storage_of_each_overlay(self, overlay: str, tmp_path: Path) -> None:
        variables = {"OVERLAY": overlay, "RUN_DIR": "s3://bucket/wgan", "S3_ENDPOINT": "http://s3.kubeflow:9000"}
        settings = self.settings("kubeflow.sh", tmp_path, HOST="http://localhost:8080", **variables)
        config = load_config(DEPLOY / "schedules" / "nightly.toml", settings)
        assert config.train.start_from == "champion"
        kubeflow.compile_pipeline(config, tmp_path / "p.yaml")
        kustomization = yaml.safe_load((DEPLOY / "kubeflow" / "overlays" / overlay / "kustomization.yaml").read_text())
        if overlay == "object-store":
            assert "components" not in kustomization
            assert (config.run.dir, config.registry) == ("s3://bucket/wgan", "s3://bucket/wgan/registry")
            assert (config.deploy.s3_secret, config.deploy.s3_endpoint) == ("wgan-s3", "http://s3.kubeflow:9000")
            return
        assert kustomization["components"] == ["../../volume"]
        claim = yaml.safe_load((DEPLOY / "kubeflow" / "volume" / "volume-claim.yaml").read_text())
        assert config.deploy.volume_claim == claim["metadata"]["name"]
        if overlay == "shared-disk":  # whose network policy blocks all buckets
            assert "gs://" not in f"{config.ingest.source} {config.registry}"

    @pytest.mark.parametrize(("code", "created"), [(0, True), (2, True), (1, False)])
    def test_the_schedule_of_kubeflow_is_replaced_when_its_run_has_ended(
        self, code: int, created: bool, tmp_path: Path
    ) -> None:
        """2: there is no schedule yet; 1: Kubeflow cannot be reached."""
        program, called = tmp_path / "wgan-pipeline", tmp_path / "called"
        program.write_text(f'#!/bin/sh\necho "$@" >> {called}\n[ "$2" != delete ] || exit {code}\n')
        program.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOST": "http://h", "OVERLAY": "gke"}
        done = subprocess.run([DEPLOY / "schedules" / "kubeflow.sh"], env=environment, capture_output=True, check=False)
        assert (done.returncode == 0) == created
        lines = called.read_text().splitlines()
        assert lines[0] == "schedule delete nightly --wait --host http://h"
        assert any(line.startswith("schedule create") for line in lines) == created

    def test_an_unknown_overlay_is_refused(self, tmp_path: Path) -> None:
        command = ["bash", str(DEPLOY / "schedules" / "kubeflow.sh")]
        environment = {"PATH": os.environ["PATH"], "HOST": "http://localhost:8080", "OVERLAY": "nfs"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == "kubeflow.sh: there is no overlay nfs. Use shared-disk, gke, bucket-key or object-store.\n"

    def test_the_schedule_of_vertex_compiles(self, tmp_path: Path) -> None:
        config = load_config(DEPLOY / "schedules" / "nightly.toml", self.settings("vertex.sh", tmp_path, PROJECT="p"))
        assert config.train.devices == "tpu"
        vertex.compile_pipeline(config, tmp_path / "p.yaml")

    @pytest.mark.parametrize("name", ["kubeflow.sh", "vertex.sh", "laptop.crontab"])
    def test_commands_and_options_exist(self, name: str) -> None:
        import typer

        from pipeline.cli import app

        commands = typer.main.get_command(app)
        written = (DEPLOY / "schedules" / name).read_text().replace("\\\n", " ")
        lines = [
            line[line.index("wgan-pipeline") :] for line in written.splitlines() if "wgan-pipeline " in line and line[0] != "#"
        ]
        assert lines
        for line in lines:
            words = [word.strip("\"'") for word in re.findall(r'"[^"]*"|\S+', line.split(" >>")[0])][1:]
            command: Any = commands
            while hasattr(command, "commands"):
                command = command.commands[words.pop(0)]
            known = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known, line

    @pytest.mark.parametrize("name", ["kubeflow.sh", "vertex.sh"])
    def test_scripts_have_valid_syntax(self, name: str) -> None:
        done = subprocess.run(["bash", "-n", str(DEPLOY / "schedules" / name)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_config_keys_in_overlays_exist() -> None:
    for file in (DEPLOY / "kubeflow").rglob("*.yaml"):
        for key in re.findall(r"--set (\S+?)=", file.read_text()):
            section, _, name = key.partition(".")
            assert name in type(getattr(RunConfig(), section)).model_fields, f"{file.name}: {key}"


def test_a_misspelt_key_is_refused() -> None:
    with pytest.raises(ConfigError):
        load_config(DEPLOY / "schedules" / "nightly.toml", ["train.start_form=champion"])
