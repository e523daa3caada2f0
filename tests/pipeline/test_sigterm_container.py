"""The command in a compiled file, as the first process of a container, gets SIGTERM and saves within the grace period."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from components.train.saving.signals import SPOT_NOTICE_SECONDS
from pipeline.steps import EXEC_PYTHON, PYTHON
from tests.support.compiled_containers import Machine
from tests.support.local_runs import wait_for

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]
ROUNDS = 1_000_000  # never reached, nor is the round of a regular checkpoint
SETTINGS = [f"train.{key}_rounds={ROUNDS}" for key in ("checkpoint_every", "sample_every")]
Start = Callable[[list[str]], Any]


@pytest.fixture(scope="module")
def machine(client: Any, image: str, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine whose bucket has a dataset and its validation, which the compiled commands of these steps made."""
    folder = tmp_path_factory.mktemp("vertex")
    machine = Machine(client, image, folder, f"train.rounds={ROUNDS}", "train.log_every_rounds=10", *SETTINGS)
    for step in ("ingest", "validate"):
        code, said = machine.run(step)
        assert code == 0, said
    return machine


@pytest.fixture
def start(machine: Machine) -> Iterator[Start]:
    """Start a training, wait until it has passed some rounds, and return its container; it is removed afterwards."""
    containers = []

    def start(command: list[str]) -> Any:
        containers.append(machine.start(command))
        wait_for(lambda: rounds_of(containers[-1]) >= 30, seconds=300)
        return containers[-1]

    yield start
    for container in containers:
        container.remove(force=True)


def rounds_of(container: Any) -> int:
    """Return the last round that a training has reported."""
    container.reload()
    said = container.logs().decode()
    assert container.status == "running", said
    return max(map(int, re.findall(rf"… (\d+)/{ROUNDS} ", said)), default=0)


def checkpoints(machine: Machine) -> list[int]:
    """Return the rounds of the checkpoints in the bucket."""
    found = (machine.bucket / "runs" / ".work" / "checkpoints").glob("*/round-*/manifest.json")
    return sorted(int(path.parent.name.removeprefix("round-")) for path in found)


def test_without_exec_the_shell_ignores_the_signal(machine: Machine, start: Start) -> None:
    """KFP's own command, which is why ours differs: the training hears nothing and goes on until the machine is taken away."""
    command = [word.replace(EXEC_PYTHON, PYTHON) for word in machine.command("train")]
    assert command != machine.command("train")
    container = start(command)
    container.kill(signal="SIGTERM")
    at_signal = rounds_of(container)
    with pytest.raises((requests.ReadTimeout, requests.ConnectionError)):
        container.wait(timeout=10)
    assert rounds_of(container) > at_signal
    assert checkpoints(machine) == []


def test_a_signalled_training_saves_within_the_grace_period_and_the_next_one_resumes(machine: Machine, start: Start) -> None:
    command = machine.command("train")
    container = start(command)
    before, started = rounds_of(container), time.monotonic()
    container.kill(signal="SIGTERM")  # the first process alone
    code = container.wait(timeout=SPOT_NOTICE_SECONDS)["StatusCode"]
    seconds, said = time.monotonic() - started, container.logs().decode()
    assert code == 1, said
    (saved,) = checkpoints(machine)
    assert saved >= before
    assert f"train: Training stopped by SIGTERM after round {saved} of {ROUNDS}. Run again to resume." in said
    assert "Traceback" not in said
    assert seconds < SPOT_NOTICE_SECONDS
    again = start(command)
    assert f"Resuming from round {saved} of {ROUNDS}" in again.logs().decode()


def test_a_step_that_is_still_importing_its_libraries_ends_at_once(machine: Machine, client: Any) -> None:
    """A first process without a handler would ignore the signal. Its handler is there before TensorFlow is."""
    container = machine.start(machine.command("train"))
    try:
        wait_for(lambda: "Got executor_input" in container.logs().decode(), seconds=60)
        time.sleep(0.5)
        container.kill(signal="SIGTERM")
        assert container.wait(timeout=SPOT_NOTICE_SECONDS)["StatusCode"] == 1
        assert "train: " in container.logs().decode()
        assert "Traceback" not in container.logs().decode()
    finally:
        container.remove(force=True)


@pytest.mark.parametrize("step", ["snapshot", "ingest"])
def test_a_folder_that_cannot_be_written_is_named_in_one_line(machine: Machine, step: str) -> None:
    """A volume that was mounted read-only; the root of the image is read-only too."""
    code, said = machine.run(step, mode="ro")
    assert code == 1, said
    assert re.fullmatch(
        rf"{step}: Cannot write /gcs/bucket/runs/\.work/journal/\S+: Read-only file system\."
        r" Free space or name a writable folder, for instance --set run\.dir=DIR\.",
        said.strip().splitlines()[-1],
    )
    assert "Traceback" not in said
