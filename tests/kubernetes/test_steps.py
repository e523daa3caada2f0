"""Pods of the steps on a real node, in a namespace with deploy/kubeflow's quota where Pod Security `restricted` is enforced."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.train.saving.signals import SPOT_NOTICE_SECONDS
from pipeline.targets.kubeflow.compiler import USER
from tests.kubernetes.conftest import Cluster
from tests.support.local_runs import ROOT, wait_for
from tests.support.step_pods import CLAIM, CompiledFile
from tests.support.two_runs import CONFIG

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1800)]
ENDED = ("Succeeded", "Failed")
ROUNDS = 1_000_000  # never reached, nor is a regular checkpoint
NEVER = ("rounds", "checkpoint_every_rounds", "checkpoint_every_seconds", "sample_every_rounds")
SETTINGS = [*(f"train.{key}={ROUNDS}" for key in NEVER), "train.log_every_rounds=10", "deploy.cpu=500m", "deploy.memory=1Gi"]


class Steps:
    """A namespace with a volume, and the compiled file whose pods are started in it."""

    def __init__(self, cluster: Cluster, image: str, folder: Path) -> None:
        self.cluster, self.volume = cluster, folder / "volume"
        self.volume.mkdir()
        os.chown(self.volume, USER, USER)
        self.file = CompiledFile(folder, CONFIG, image, *SETTINGS)
        (folder / "tpu").mkdir()
        self.on_tpu = CompiledFile(folder / "tpu", CONFIG, image, "train.devices=tpu", "deploy.google_key_secret=key")

    def create(self, pod: dict[str, Any], *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Create a pod; the API server's warnings are in stderr."""
        return self.cluster.kubectl("create", "--validate=strict", "-f", "-", *options, stdin=pod, check=check)

    def finish(self, step: str) -> None:
        """Run a step to its end."""
        self.create(self.file.pod(step, step))
        pod = self.cluster.wait(step, *ENDED, seconds=300)
        said = self.cluster.kubectl("logs", step).stdout
        assert pod["status"]["phase"] == "Succeeded", said

    def checkpoints(self) -> list[int]:
        """Return the rounds of the checkpoints on the volume."""
        found = self.volume.glob(".work/checkpoints/*/round-*/manifest.json")
        return sorted(int(path.parent.name.removeprefix("round-")) for path in found)


@pytest.fixture(scope="module")
def steps(cluster: Cluster, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steps]:
    steps = Steps(cluster, image, tmp_path_factory.mktemp("steps"))
    overlay = ROOT / "deploy" / "kubeflow" / "overlays" / "shared-disk"
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "wgan"},
        "spec": {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteMany"],
            "hostPath": {"path": str(steps.volume)},
            "claimRef": {"namespace": "kubeflow", "name": CLAIM},
        },
    }
    try:
        cluster.kubectl("apply", "-f", "-", stdin=volume)
        cluster.kubectl("apply", "-k", overlay)
        cluster.kubectl("label", "namespace", "kubeflow", "pod-security.kubernetes.io/enforce=restricted")
        wait_for(lambda: cluster.get("pvc", CLAIM)["status"]["phase"] == "Bound", seconds=60)
        yield steps
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-k", overlay)
        cluster.kubectl("delete", "--ignore-not-found", "persistentvolume", "wgan")


@pytest.fixture(scope="module")
def dataset(steps: Steps) -> None:
    """A dataset and its validation on the volume, made by the pods of these steps."""
    for step in ("ingest", "validate"):
        steps.finish(step)


class Training:
    """The pod of a training, and the output that was read so far."""

    def __init__(self, steps: Steps, name: str, **limits: str) -> None:
        self._steps, self.name, self.said = steps, name, ""
        pod = steps.file.pod("train", name)
        pod["metadata"]["finalizers"] = ["wgan-tpu-pipeline/test"]  # so that the last status can be read, as Argo does
        pod["spec"]["containers"][0]["resources"]["limits"] |= limits
        pod["spec"]["containers"][0]["resources"]["requests"] |= limits
        steps.create(pod)
        steps.cluster.wait(name, "Running", *ENDED)
        self._log = subprocess.Popen(steps.cluster.command("logs", "-f", name), stdout=subprocess.PIPE, text=True)

    def wait_for_rounds(self) -> int:
        """Return the last round that was reported, when that is 30 or more; 0 if the training ended before."""
        assert self._log.stdout is not None
        for line in self._log.stdout:
            self.said += line
            if (found := re.search(rf"… (\d+)/{ROUNDS} ", line)) and int(found[1]) >= 30:
                return int(found[1])
        return 0

    def end(self) -> dict[str, Any]:
        """Return the pod when its container has ended, and read the rest of its output.

        The kubelet may say before that a pod has failed, for instance when it evicts one.
        """
        self.said += self._log.communicate(timeout=300)[0]
        wait_for(lambda: "terminated" in container_state(self._steps.cluster.get("pod", self.name)), seconds=60)
        return self._steps.cluster.wait(self.name, *ENDED)

    def remove(self) -> None:
        """Remove the pod."""
        kubectl = self._steps.cluster.kubectl
        kubectl("delete", "pod", self.name, "--now", "--wait=false")
        kubectl("patch", "pod", self.name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}', check=False)
        kubectl("wait", "--for=delete", f"pod/{self.name}", "--timeout=90s")
        self._log.communicate(timeout=60)


@pytest.fixture
def train(steps: Steps, dataset: None) -> Iterator[Callable[..., Training]]:
    """Start a training with a name and limits; it is removed afterwards."""
    with contextlib.ExitStack() as stack:

        def start(name: str, **limits: str) -> Training:
            training = Training(steps, name, **limits)
            stack.callback(training.remove)
            return training

        yield start


def container_state(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["status"]["containerStatuses"]
    return dict(container["state"])


def terminated(pod: dict[str, Any]) -> tuple[int, str]:
    """Return exit code and reason of a pod's container."""
    state = container_state(pod)["terminated"]
    return state["exitCode"], state["reason"]


def conditions(pod: dict[str, Any]) -> dict[str, str]:
    """Return the reasons of a pod's conditions, by type."""
    return {each["type"]: each.get("reason", "") for each in pod["status"]["conditions"] if each["status"] == "True"}


class TestAdmission:
    def test_the_pod_of_every_step_is_admitted(self, steps: Steps) -> None:
        for file in (steps.file, steps.on_tpu):
            for step in file.steps():
                done = steps.create(file.pod(step, f"dry-{step}"), "--dry-run=server")
                assert (done.stdout, done.stderr) == (f"pod/dry-{step} created (server dry run)\n", "")

    @pytest.mark.parametrize(
        ("section", "key", "said"),
        [
            ("container", "runAsNonRoot", "runAsNonRoot != true"),
            ("container", "allowPrivilegeEscalation", "allowPrivilegeEscalation != false"),
            ("container", "capabilities", "unrestricted capabilities"),
        ],
    )
    def test_a_pod_that_violates_the_standard_is_refused(self, steps: Steps, section: str, key: str, said: str) -> None:
        pod = steps.file.pod("ingest", "refused")
        del pod["spec"]["containers"][0]["securityContext"][key]
        done = steps.create(pod, "--dry-run=server", check=False)
        assert done.returncode == 1
        assert 'pods "refused" is forbidden: violates PodSecurity "restricted:latest": ' + said in done.stderr

    def test_a_second_step_on_all_chips_is_refused_by_the_quota(self, steps: Steps) -> None:
        """The first one waits for a machine: its chips count from its creation."""
        pod = steps.on_tpu.pod("train", "on-tpu")
        steps.create(pod)
        second = copy.deepcopy(pod)
        second["metadata"]["name"] = "on-tpu-2"
        try:
            said = steps.create(second, check=False).stderr
            assert "exceeded quota: wgan-tpus, requested: requests.google.com/tpu=8, used: requests.google.com/tpu=8" in said
            wait_for(lambda: "conditions" in steps.cluster.get("pod", "on-tpu")["status"], seconds=30)
            (condition,) = steps.cluster.get("pod", "on-tpu")["status"]["conditions"]
            assert (condition["type"], condition["reason"]) == ("PodScheduled", "Unschedulable")
            assert "0/1 nodes are available" in condition["message"]
        finally:
            steps.cluster.kubectl("delete", "pod", "on-tpu", "--now")


class TestRunning:
    def test_a_step_writes_the_volume_as_its_user_and_nothing_else(self, steps: Steps, train: Any) -> None:
        train("writes")
        assert {path.stat().st_uid for path in steps.volume.rglob("*")} == {USER}
        script = "id -u; touch /x; touch /opt/venv/x; touch /tmp/x && touch /mnt/wgan/x && echo written"
        done = steps.cluster.kubectl("exec", "writes", "--", "sh", "-c", f"exec 2>&1; {script}")
        assert done.stdout.splitlines() == [
            str(USER),
            "touch: cannot touch '/x': Read-only file system",
            "touch: cannot touch '/opt/venv/x': Read-only file system",
            "written",
        ]

    @pytest.mark.parametrize("how", ["deleted", "evicted"])
    def test_a_training_saves_within_the_grace_period_and_the_next_one_resumes(
        self, how: str, steps: Steps, train: Any
    ) -> None:
        """The real command of the step. Python is the container's first process, so the kubelet's SIGTERM reaches it."""
        before = steps.checkpoints()
        training = train(how)
        passed, started = training.wait_for_rounds(), time.monotonic()
        if how == "deleted":
            steps.cluster.kubectl("delete", "pod", how, "--wait=false")
        else:
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": how, "namespace": "kubeflow"}}
            path = f"/api/v1/namespaces/kubeflow/pods/{how}/eviction"
            steps.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=eviction)
        pod = training.end()
        assert time.monotonic() - started < SPOT_NOTICE_SECONDS
        assert (pod["status"]["phase"], terminated(pod)) == ("Failed", (1, "Error")), training.said
        (saved,) = set(steps.checkpoints()) - set(before)
        assert saved >= passed >= 30
        assert f"train: Training stopped by SIGTERM after round {saved} of {ROUNDS}. Run again to resume." in training.said
        assert "Traceback" not in training.said
        assert "deletionTimestamp" in pod["metadata"]
        assert conditions(pod).get("DisruptionTarget") == {"deleted": None, "evicted": "EvictionByEvictionAPI"}[how]
        again = train(f"after-{how}")
        assert again.wait_for_rounds() > saved
        assert f"Resuming from round {saved} of {ROUNDS}" in again.said

    def test_a_pod_whose_disk_is_full_is_evicted_by_the_kubelet(self, steps: Steps, train: Any) -> None:
        training = train("full", **{"ephemeral-storage": "100Mi"})
        steps.cluster.kubectl("exec", "full", "--", "sh", "-c", "head -c 200M /dev/zero > /tmp/x")
        pod = training.end()
        assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "Evicted")
        assert "ephemeral local storage usage exceeds the total limit of containers 100Mi" in pod["status"]["message"]
        assert terminated(pod)[0] in (1, 137)  # the kubelet gives it one second; 1 if it has ended by then
        assert "DisruptionTarget" not in conditions(pod)
        assert "deletionTimestamp" not in pod["metadata"]

    def test_a_step_that_needs_more_memory_than_its_limit_is_killed(self, train: Any) -> None:
        pod = train("killed", memory="200Mi").end()
        assert (pod["status"]["phase"], terminated(pod)) == ("Failed", (137, "OOMKilled"))
        assert "reason" not in pod["status"]
