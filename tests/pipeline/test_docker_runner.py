"""Steps in containers: each of many failures is reported as one, and a run produces what a run of processes produces."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ConfigError
from pipeline.config import load_config, resolve_paths
from pipeline.targets.local import docker as docker_target
from tests.support import containers
from tests.support.compiled_containers import LABELS
from tests.support.local_runs import ROOT, latest_summary, wait_for
from tests.support.two_runs import CONFIG, Results, results_of

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]

TIMES = 12
SETTINGS = docker_target.container_settings(network=False)


@pytest.fixture(scope="module")
def base(host: str) -> str:
    return containers.make_base()


class TestFailures:
    """Each is repeated, since kubeflow/pipelines#13332 is a race: with the upstream runner most of these containers succeed."""

    def test_exit_code_3(self, client: Any, base: str) -> None:
        codes = [run(client, base, ["sh", "-c", "echo some output; exit 3"]) for _ in range(TIMES)]
        assert codes == [3] * TIMES

    def test_exit_without_output(self, client: Any, base: str) -> None:
        codes = [run(client, base, ["false"]) for _ in range(TIMES)]
        assert codes == [1] * TIMES

    def test_kill(self, client: Any, base: str) -> None:
        codes = [self.killed(client, base) for _ in range(TIMES)]
        assert codes == [128 + signal.SIGKILL] * TIMES

    def killed(self, client: Any, base: str) -> int:
        label = {"test": "killed"}

        def kill() -> None:
            wait_for(lambda: bool(client.containers.list(filters={"label": "test=killed"})), seconds=30)
            client.containers.list(filters={"label": "test=killed"})[0].kill()

        killer = threading.Thread(target=kill)
        killer.start()
        code = docker_target.run_container(client, base, ["sleep", "60"], {}, arguments={**SETTINGS, "labels": label})
        killer.join()
        return code

    @pytest.mark.parametrize("entry", ['["true"]', '["echo"]', "exit 0"])
    def test_image_with_an_entry_point(self, client: Any, base: str, tmp_path: Path, entry: str) -> None:
        """The upstream runner passes the command to the entry point as arguments, and that succeeds."""
        image = containers.make_image(tmp_path, "localhost/wgan-test-entry:1", f"ENTRYPOINT {entry}")
        codes = [run(client, image, ["sh", "-c", "exit 3"]) for _ in range(TIMES)]
        assert set(codes) == {3}

    def test_missing_command(self, client: Any, base: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(client, base, ["no-such-command"]) == docker_target.CANNOT_START
        assert "cannot start: " in capsys.readouterr().out

    def test_a_container_has_neither_privileges_nor_network(
        self, client: Any, base: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        script = "cat /proc/self/status | grep -E 'CapEff|NoNewPrivs'; touch /x; touch /tmp/x && echo tmp; ls /sys/class/net"
        assert run(client, base, ["sh", "-c", f"exec 2>&1; {script}; true"]) == 0  # in one stream, so that the order is known
        said = capsys.readouterr().out
        assert "CapEff:\t0000000000000000" in said
        assert "NoNewPrivs:\t1" in said
        assert "Read-only file system" in said
        assert said.endswith("tmp\nlo\n"), "only the loopback interface"

    def test_no_container_is_left(self, client: Any, base: str) -> None:
        assert left(client) == []


def left(client: Any) -> list[Any]:
    """Return the containers that are still there, without those of test_sigterm_container.py, which may run meanwhile."""
    return [each for each in client.containers.list(all=True) if each.labels.get("test") != LABELS["test"]]


def run(client: Any, image: str, command: list[str]) -> int:
    return docker_target.run_container(client, image, command, {}, arguments=SETTINGS)


def start(folder: Path, image: str, *words: str) -> subprocess.Popen[str]:
    (folder / "c.toml").write_text(CONFIG)
    sets = [f"--set=run.dir={folder / 'runs'}", f"--set=deploy.image={image}"]
    command = [sys.executable, "-m", "pipeline", "run", str(folder / "c.toml"), "--runner", "docker", *sets, *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class TestARun:
    def test_it_produces_what_a_run_of_processes_produces(self, image: str, local_run: Results, tmp_path: Path) -> None:
        """Same summary, same bytes of every dataset, weight, sample and score."""
        process = start(tmp_path, image)
        said = process.communicate(timeout=900)[0]
        assert process.returncode == 0, said
        results = results_of(tmp_path / "runs")
        assert results.artifacts == local_run.artifacts
        assert set(results.artifacts) == {"dataset", "validation", "model", "evaluation"}
        assert results.summary == local_run.summary

    def test_a_step_that_fails_ends_the_run_with_its_reason(self, image: str, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        process = start(tmp_path, image, f"--set=ingest.source=images:{tmp_path / 'images'}")
        said = process.communicate(timeout=900)[0]
        assert process.returncode not in (0, None), said
        assert "images" in said
        assert not (tmp_path / "runs" / "registry" / "champion").exists()

    def test_a_stopped_run_saves_a_checkpoint_and_leaves_no_container(self, image: str, tmp_path: Path, client: Any) -> None:
        process = start(tmp_path, image, "--set=train.rounds=100000")
        checkpoints = tmp_path / "runs" / ".work" / "checkpoints"
        wait_for(lambda: len(list(checkpoints.glob("*/round-*/manifest.json"))) > 1 or process.poll() is not None, seconds=600)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=180)[0]
        assert process.returncode == 1, said
        summary = latest_summary(tmp_path / "runs")
        assert (summary["status"], summary["steps"]["train"]["status"]) == ("interrupted", "interrupted")
        assert summary["error"]["problem"].startswith("Training stopped by SIGTERM after round "), (
            "the step's own message: it had time to save"
        )
        assert left(client) == []

    def test_an_image_with_other_code_is_refused(self, client: Any, image: str, tmp_path: Path) -> None:
        lines = [
            f"FROM {image}",
            "USER root",
            "RUN echo >> $(python -c 'import components.train.losses as m; print(m.__file__)')",
        ]
        (tmp_path / "Containerfile").write_text("\n".join(lines) + "\n")
        other = "localhost/wgan-test-other:1"
        subprocess.run(["podman", "build", "--quiet", "--tag", other, str(tmp_path)], check=True)
        with pytest.raises(ConfigError, match=r"contains other code than this program for train.*\. Build it again"):
            docker_target.check_image(client, config_of(tmp_path, other))
        docker_target.check_image(client, config_of(tmp_path, image))

    def test_an_image_that_is_not_there_is_refused(self, client: Any, tmp_path: Path) -> None:
        with pytest.raises(
            ConfigError, match=r"There is no image localhost/nothing:1 on this machine \(deploy\.image\)\. Build it"
        ):
            docker_target.check_image(client, config_of(tmp_path, "localhost/nothing:1"))


def config_of(folder: Path, image: str) -> Any:
    return resolve_paths(load_config(None, [f"run.dir={folder / 'runs'}", f"deploy.image={image}"]))


class TestImage:
    """The image that the steps run in."""

    MOST_BYTES = 2.9e9

    def test_its_size_is_below_the_documented_limit(self, client: Any, image: str) -> None:
        assert client.images.get(image).attrs["Size"] < self.MOST_BYTES

    def test_its_bill_of_materials_lists_what_is_installed(self, client: Any, image: str) -> None:
        program = (
            "import importlib.metadata, json, pathlib; "
            "print(json.dumps([sorted({(each.name, each.version) for each in importlib.metadata.distributions()}), "
            "json.loads(pathlib.Path('/opt/venv/sbom.cdx.json').read_text())]))"
        )
        installed, listed = json.loads(
            client.containers.run(image, ["python", "-c", program], remove=True, network_mode="none")
        )
        assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
        found = {normalized(each["name"]): each["version"] for each in listed["components"]}
        assert found == {normalized(name): version for name, version in installed}
        assert {"tensorflow", "apache-beam", "kfp", "wgan-tpu-pipeline"} <= found.keys()
        assert not {"pip", "uv", "hatchling", "cyclonedx-bom"} & found.keys(), "no package that installs others"

    def test_its_default_command_works(self, client: Any, image: str) -> None:
        said = client.containers.run(image, remove=True, network_mode="none", read_only=True, tmpfs={"/tmp": ""}).decode()
        assert "tensorflow" in said.lower(), said


def normalized(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
