"""The command in a compiled file, as the first process of a container, gets SIGTERM and saves within the grace period."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from components.train.saving.signals import SPOT_NOTICE_SECONDS
from pipeline.steps import EXEC_PYTHON, PYTHON
from pipeline.targets.local.docker import container_settings
from tests.support.command_line import run
from tests.support.local_runs import wait_for
from tests.support.servers.run_compiled import without_custom_jobs
from tests.support.two_runs import CONFIG

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]
ROUNDS = 1_000_000  # never reached; nor is the round of a regular checkpoint
SETTINGS = [
    "run.dir=/gcs/bucket/runs", f"train.rounds={ROUNDS}", f"train.checkpoint_every_rounds={ROUNDS}",
    f"train.sample_every_rounds={ROUNDS}", "train.log_every_rounds=10",
]  # fmt: skip
INPUTS = {"ingest": [], "validate": ["dataset"], "train": ["dataset", "validation"]}
OUTPUTS = {"ingest": "dataset", "validate": "validation", "train": "model"}


class Machine:
    """Vertex AI's part: it mounts the bucket, fills in the placeholder of a compiled command, and starts it as a container."""

    def __init__(self, client: Any, image: str, folder: Path) -> None:
        self.client, self.image, self.bucket = client, image, folder / "bucket"
        self.bucket.mkdir()
        (folder / "c.toml").write_text(CONFIG)
        words = [f"--set={setting}" for setting in [*SETTINGS, "deploy.pipeline_root=gs://bucket/root", "train.devices=tpu"]]
        code, said = run("compile", str(folder / "c.toml"), "--target", "vertex", "-o", str(folder / "p.yaml"), *words)
        assert code == 0, said
        self.spec = without_custom_jobs(yaml.safe_load((folder / "p.yaml").read_text()))

    def command(self, step: str) -> list[str]:
        """Return the command of a step in the compiled file, with the step's input."""
        defaults = {
            name: each["defaultValue"]
            for name, each in self.spec["root"]["inputDefinitions"]["parameters"].items()
            if "defaultValue" in each
        }
        config = json.loads(defaults[f"{step}_config"]) | ({"devices": "cpu:1"} if step == "train" else {})
        parameters = {"config": json.dumps(config), "key": step, "work_dir": defaults["work_dir"]}
        inputs = {name: artifact(name) for name in INPUTS[step]}
        outputs = {OUTPUTS[step]: artifact(OUTPUTS[step])}
        given = {
            "inputs": {"parameterValues": parameters, "artifacts": inputs},
            "outputs": {"artifacts": outputs, "outputFile": f"/gcs/bucket/root/{step}.json"},
        }
        container = self.spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
        return [*container["command"], *(word.replace("{{$}}", json.dumps(given)) for word in container["args"])]

    def start(self, command: list[str]) -> Any:
        """Start a command as the first process of a container."""
        volumes = {str(self.bucket): {"bind": "/gcs/bucket", "mode": "rw"}}
        settings = container_settings(network=False)
        return self.client.containers.run(self.image, command, detach=True, volumes=volumes, **settings)

    def checkpoints(self) -> list[int]:
        """Return the rounds of the checkpoints in the bucket."""
        found = (self.bucket / "runs" / ".work" / "checkpoints").glob("*/round-*/manifest.json")
        return sorted(int(path.parent.name.removeprefix("round-")) for path in found)


def artifact(name: str) -> dict[str, Any]:
    return {"artifacts": [{"name": name, "uri": f"gs://bucket/root/{name}", "type": {"schemaTitle": "system.Artifact"}}]}


def rounds_of(container: Any) -> int:
    """Return the last round that a training has reported."""
    container.reload()
    said = container.logs().decode()
    assert container.status == "running", said
    return max(map(int, re.findall(rf"… (\d+)/{ROUNDS} ", said)), default=0)


@pytest.fixture(scope="module")
def machine(client: Any, image: str, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine whose bucket has a dataset and its validation, which the compiled commands of these steps made."""
    machine = Machine(client, image, tmp_path_factory.mktemp("vertex"))
    for step in ("ingest", "validate"):
        container = machine.start(machine.command(step))
        code = container.wait(timeout=300)["StatusCode"]
        said = container.logs().decode()
        container.remove()
        assert code == 0, said
    return machine


@pytest.fixture
def start(machine: Machine) -> Iterator[Callable[[list[str]], Any]]:
    """Start a training, wait until it has passed some rounds, and return its container; it is removed afterwards."""
    containers = []

    def start(command: list[str]) -> Any:
        containers.append(machine.start(command))
        wait_for(lambda: rounds_of(containers[-1]) >= 30, seconds=300)
        return containers[-1]

    yield start
    for container in containers:
        container.remove(force=True)


def test_without_exec_the_shell_ignores_the_signal(machine: Machine, start: Callable[[list[str]], Any]) -> None:
    """KFP's own command, which is why ours differs: the training hears nothing and goes on until the machine is taken away."""
    command = [word.replace(EXEC_PYTHON, PYTHON) for word in machine.command("train")]
    assert command != machine.command("train")
    container = start(command)
    container.kill(signal="SIGTERM")
    at_signal = rounds_of(container)
    with pytest.raises((requests.ReadTimeout, requests.ConnectionError)):
        container.wait(timeout=10)
    assert rounds_of(container) > at_signal
    assert machine.checkpoints() == []


def test_a_signalled_training_saves_within_the_grace_period_and_the_next_one_resumes(
    machine: Machine, start: Callable[[list[str]], Any]
) -> None:
    command = machine.command("train")
    container = start(command)
    before, started = rounds_of(container), time.monotonic()
    container.kill(signal="SIGTERM")  # the first process alone
    code = container.wait(timeout=SPOT_NOTICE_SECONDS)["StatusCode"]
    seconds, said = time.monotonic() - started, container.logs().decode()
    assert code == 1, said
    (saved,) = machine.checkpoints()
    assert saved >= before
    assert f"train: Training stopped by SIGTERM after round {saved} of {ROUNDS}. Run again to resume." in said
    assert "Traceback" not in said
    assert seconds < SPOT_NOTICE_SECONDS
    print(f"saved round {saved} in {seconds:.1f} s")

    again = start(command)
    assert f"Resuming from round {saved} of {ROUNDS}" in again.logs().decode()
