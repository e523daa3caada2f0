"""Pods of the steps in a namespace with deploy/kubeflow's quota, where Pod Security `restricted` is enforced, on a real node."""

from __future__ import annotations

import copy
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.train.saving.signals import SPOT_NOTICE_SECONDS
from tests.kubernetes.conftest import Cluster
from tests.support.local_runs import ROOT, wait_for
from tests.support.step_pods import CLAIM, CompiledFile
from tests.support.two_runs import CONFIG

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1800)]
ENDED = ("Succeeded", "Failed")
ROUNDS = 1_000_000  # never reached, nor is the round of a regular checkpoint
SETTINGS = [
    *(f"train.{key}={ROUNDS}" for key in ("rounds", "checkpoint_every_rounds", "checkpoint_every_seconds", "sample_every_rounds")),
    "train.log_every_rounds=10", "deploy.cpu=500m", "deploy.memory=1Gi",
]  # fmt: skip


class Steps:
    """A namespace with a volume, and the compiled file whose pods are started in it."""

    def __init__(self, cluster: Cluster, image: str, folder: Path) -> None:
        self.cluster, self.volume = cluster, folder / "volume"
        self.volume.mkdir()
        self.volume.chmod(0o755)
        for path in (folder, *folder.parents[:2]):
            path.chmod(path.stat().st_mode | 0o711)
        subprocess.run(["chown", "10001:10001", str(self.volume)], check=True)
        self.file = CompiledFile(folder, CONFIG, image, *SETTINGS)
        (folder / "tpu").mkdir()
        self.on_tpu = CompiledFile(folder / "tpu", CONFIG, image, "train.devices=tpu", "deploy.google_key_secret=key")

    def create(self, pod: dict[str, Any], *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Create a pod; the API server's warnings are in stderr."""
        return self.cluster.kubectl("create", "--validate=strict", "-n", "kubeflow", "-f", "-", *options, stdin=pod, check=check)

    def finish(self, step: str) -> str:
        """Run a step to its end, and return its log."""
        self.create(self.file.pod(step, step))
        pod = self.cluster.wait(step, *ENDED, seconds=300)
        said = self.log(step)
        assert pod["status"]["phase"] == "Succeeded", said
        return said

    def log(self, name: str) -> str:
        """Return the output of a pod."""
        return self.cluster.kubectl("logs", name, "-n", "kubeflow").stdout

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


Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def train(steps: Steps, dataset: None) -> Iterator[Callable[[str, Change], str]]:
    """Start a training, and return its name when it has passed some rounds; its pod is removed afterwards."""
    names = []

    def start(name: str, change: Change = lambda pod: None) -> str:
        pod = steps.file.pod("train", name)
        pod["metadata"]["finalizers"] = ["wgan-tpu-pipeline/test"]  # so that the last status can be read, as Argo does
        change(pod)
        names.append(name)
        steps.create(pod)
        steps.cluster.wait(name, "Running", *ENDED)
        wait_for(lambda: rounds_of(steps, name) >= 30 or ended(steps, name), seconds=300)
        return name

    yield start
    for name in names:
        patch = '{"metadata":{"finalizers":null}}'
        steps.cluster.kubectl("delete", "pod", name, "-n", "kubeflow", "--now", "--wait=false", check=False)
        steps.cluster.kubectl("patch", "pod", name, "-n", "kubeflow", "--type=merge", "-p", patch, check=False)
        steps.cluster.kubectl("wait", "--for=delete", f"pod/{name}", "-n", "kubeflow", "--timeout=90s")


def rounds_of(steps: Steps, name: str) -> int:
    """Return the last round that a training has reported."""
    return max(map(int, re.findall(rf"… (\d+)/{ROUNDS} ", steps.log(name))), default=0)


def ended(steps: Steps, name: str) -> bool:
    return steps.cluster.get("pod", name)["status"]["phase"] in ENDED


def terminated(pod: dict[str, Any]) -> tuple[int, str]:
    """Return exit code and reason of a pod's container."""
    (container,) = pod["status"]["containerStatuses"]
    state = container["state"]["terminated"]
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
            done = steps.create(second, check=False)
            assert "exceeded quota: wgan-tpus, requested: requests.google.com/tpu=8, used: requests.google.com/tpu=8" in done.stderr
            wait_for(lambda: "conditions" in steps.cluster.get("pod", "on-tpu")["status"], seconds=30)
            (condition,) = steps.cluster.get("pod", "on-tpu")["status"]["conditions"]
            assert (condition["type"], condition["reason"]) == ("PodScheduled", "Unschedulable")
            assert "0/1 nodes are available" in condition["message"]
        finally:
            steps.cluster.kubectl("delete", "pod", "on-tpu", "-n", "kubeflow", "--now")


class TestRunning:
    def test_a_step_writes_the_volume_as_its_user_and_nothing_else(self, steps: Steps, train: Any) -> None:
        assert {path.stat().st_uid for path in steps.volume.rglob("*")} == {10001}
        name = train("writes")
        script = "id -u; touch /x; touch /opt/venv/x; touch /tmp/x && touch /mnt/wgan/x && echo written"
        done = steps.cluster.kubectl("exec", name, "-n", "kubeflow", "--", "sh", "-c", f"exec 2>&1; {script}")
        assert done.stdout.splitlines() == [
            "10001",
            "touch: cannot touch '/x': Read-only file system",
            "touch: cannot touch '/opt/venv/x': Read-only file system",
            "written",
        ]

    @pytest.mark.parametrize("how", ["delete", "evict"])
    def test_a_deleted_training_saves_within_the_grace_period_and_the_next_one_resumes(
        self, how: str, steps: Steps, train: Any
    ) -> None:
        """The real command of the step. Python is the container's first process, so the kubelet's SIGTERM reaches it."""
        name, before = train(f"{how}d"), steps.checkpoints()
        passed, started = rounds_of(steps, name), time.monotonic()
        follow = subprocess.Popen(
            steps.cluster.command("logs", "-f", name, "-n", "kubeflow"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if how == "delete":
            steps.cluster.kubectl("delete", "pod", name, "-n", "kubeflow", "--wait=false")
        else:
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "kubeflow"}}
            path = f"/api/v1/namespaces/kubeflow/pods/{name}/eviction"
            steps.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=body)
        pod = steps.cluster.wait(name, *ENDED)
        assert time.monotonic() - started < SPOT_NOTICE_SECONDS
        said, _ = follow.communicate(timeout=60)
        (saved,) = set(steps.checkpoints()) - set(before)
        assert saved >= passed
        assert f"train: Training stopped by SIGTERM after round {saved} of {ROUNDS}. Run again to resume." in said
        assert "Traceback" not in said
        assert (pod["status"]["phase"], terminated(pod)) == ("Failed", (1, "Error"))
        assert "deletionTimestamp" in pod["metadata"]
        assert conditions(pod).get("DisruptionTarget") == {"delete": None, "evict": "EvictionByEvictionAPI"}[how]
        assert f"Resuming from round {saved} of {ROUNDS}" in steps.log(train(f"after-{how}"))

    def test_a_pod_whose_disk_is_full_is_evicted_by_the_kubelet(self, steps: Steps, train: Any) -> None:
        def limit(pod: dict[str, Any]) -> None:
            pod["spec"]["containers"][0]["resources"]["limits"]["ephemeral-storage"] = "100Mi"

        name = train("full", limit)
        steps.cluster.kubectl("exec", name, "-n", "kubeflow", "--", "sh", "-c", "head -c 200M /dev/zero > /tmp/x")
        pod = steps.cluster.wait(name, *ENDED)
        assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "Evicted")
        assert "ephemeral local storage usage exceeds the total limit of containers 100Mi" in pod["status"]["message"]
        assert terminated(pod)[0] in (1, 137)  # the kubelet gives it one second; 1 if it has saved by then
        assert "DisruptionTarget" not in conditions(pod)
        assert "deletionTimestamp" not in pod["metadata"]

    def test_a_step_that_needs_more_memory_than_its_limit_is_killed(self, steps: Steps, train: Any) -> None:
        def limit(pod: dict[str, Any]) -> None:
            pod["spec"]["containers"][0]["resources"] = {"limits": {"memory": "200Mi"}}

        pod = steps.cluster.wait(train("killed", limit), *ENDED)
        assert (pod["status"]["phase"], terminated(pod)) == ("Failed", (137, "OOMKilled"))
        assert "reason" not in pod["status"]
