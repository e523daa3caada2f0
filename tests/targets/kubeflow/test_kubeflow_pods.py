"""Why pods wait or fail, in submit's words: from answers of a real Kubeflow Pipelines, recorded in pods/.

Each file has, of one run, the state (v2beta1), Argo's workflow (v1beta1) and the events that KFP's user interface gave for its
pods, with the versions. Fields that nothing reads are left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.targets import remote
from pipeline.targets.kubeflow.pods import Pod, explain, read_pods
from tests.support.command_line import run
from tests.support.servers.kubeflow_server import Kubeflow

PODS = Path(__file__).parent / "pods"
POD = Pod("train", 1, "Pending", "", "a-pod", "kubeflow", "registry/image:1", "4Gi")


def recorded(server: Kubeflow, case: str) -> dict[str, Any]:
    """Make the server answer as the real one did in this case; return the answers."""
    answers: dict[str, Any] = json.loads((PODS / f"{case}.json").read_bytes())
    server.runs[answers["run"]["run_id"]] = {}
    server.answers = [answers["run"]]
    server.workflow, server.events = answers["workflow"], answers["events"]
    return answers


def follow(served: tuple[str, Kubeflow], case: str) -> tuple[int, list[str]]:
    run_id = recorded(served[1], case)["run"]["run_id"]
    code, output = run("submit", "--host", served[0], "--follow", run_id)
    link = f"{served[0]}/#/runs/details/{run_id}"
    return code, [line.replace(link, "LINK") for line in output.splitlines()]


OOM = "train was killed because its memory was used up (deploy.memory = 4Gi)"
ATTACHED = "train cannot start: another machine uses its volume, which one machine at a time can mount"
WAITING = {}
FAILED = {}


@pytest.mark.parametrize("case", WAITING)
def test_a_pod_that_waits(served: tuple[str, Kubeflow], monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(remote, "TOLD_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(remote, "GIVEN_UP_AFTER_SECONDS", 0.05)
    problem, lasting = WAITING[case]
    if not lasting:
        answers = recorded(served[1], case)
    code, output = follow(served, case)
    assert code == 1
    assert output == [
        "  train: running",
        f"  {problem}",
        f"Not waited for any longer: {problem} The run, which goes on then: LINK",
    ]


@pytest.mark.parametrize(
    ("text", "sentence", "lasting"),
    [
        # what Kubernetes 1.34.4 said of pods and events
        (
            'Unschedulable: 0/1 nodes are available: persistentvolumeclaim "wgan" not found. not found',
            "train cannot start: the volume claim wgan does not exist in the namespace kubeflow",
            True,
        ),
        (
            "Unschedulable: 0/1 nodes are available: 1 Insufficient google.com/tpu. no new claims to deallocate, preemption: 0/1 "
            "nodes are available: 1 Preemption is not helpful for scheduling.",
            "train waits for a machine: 0/1 nodes are available: 1 Insufficient google.com/tpu",
            False,
        ),
        (
            'FailedMount: MountVolume.SetUp failed for volume "key" : secret "key" not found',
            "train cannot start: the secret key does not exist in the namespace kubeflow",
            True,
        ),
        (
            'FailedMount: MountVolume.SetUp failed for volume "v" : mount failed: exit status 32\nMounting command: mount\nMounting '
            "arguments: -t nfs 198.18.0.99:/x /v\nOutput: mount: /v: unknown filesystem type 'nfs'.\n   dmesg(1) may have more.\n",
            "train cannot start: a volume cannot be mounted: unknown filesystem type 'nfs'",
            False,
        ),
        (
            'ImagePullBackOff: Back-off pulling image "localhost/missing:1": ErrImagePull: failed to pull and unpack image '
            '"localhost/missing:1": failed to do request: dial tcp 127.0.0.1:80: connect: connection refused',
            "train cannot start: the image registry/image:1 cannot be pulled: connection refused",
            True,
        ),
        (
            'InvalidImageName: Failed to apply default image tag "Bad Name:1": couldn\'t parse image name "Bad Name:1": invalid '
            "reference format: repository name (library/Bad Name) must be lowercase",
            "train cannot start: the image registry/image:1 cannot be pulled: repository name (library/Bad Name) must be lowercase",
            True,
        ),
        (
            'pods "x" is forbidden: exceeded quota: wgan-tpu, requested: requests.cpu=2,requests.google.com/tpu=4, used: '
            "requests.cpu=0,requests.google.com/tpu=4, limited: requests.cpu=1,requests.google.com/tpu=0",
            "train waits for the quota wgan-tpu: requests.cpu=2,requests.google.com/tpu=4 requested, "
            "requests.cpu=0,requests.google.com/tpu=4 in use, requests.cpu=1,requests.google.com/tpu=0 allowed",
            False,
        ),
        (
            'pods "x" is forbidden: failed quota: wgan-tpu: must specify requests.cpu for: main',
            "train cannot start: the quota wgan-tpu wants limits that the pod does not set (must specify requests.cpu for: main)",
            True,
        ),
        (
            'pods "x" is forbidden: error looking up service account kubeflow/nobody: serviceaccount "nobody" not found',
            "train cannot start: the service account nobody does not exist in the namespace kubeflow",
            True,
        ),
        (
            'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true (pod or container "main" must set '
            "securityContext.runAsNonRoot=true)",
            "train cannot start: the namespace kubeflow forbids such a pod (Pod Security restricted): runAsNonRoot != true (pod or "
            'container "main" must set securityContext.runAsNonRoot=true)',
            True,
        ),
        # by the source of Kubernetes
        (
            "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 9Mi. Container main was using 2Gi.",
            "train was evicted: The node was low on resource: ephemeral-storage",
            False,
        ),
        ("The node was low on resource: memory. Threshold quantity: 1Gi, available: 9Mi.", OOM, False),
        ("main: OOMKilled (exit code 137)", OOM, False),
        ('FailedAttachVolume: Multi-Attach error for volume "v" Volume is already used by pod(s) x', ATTACHED, False),
        ("Something new", "train waits for its pod: Something new", False),
    ],
)
def test_what_kubernetes_says(text: str, sentence: str, lasting: bool) -> None:
    problem = explain(POD._replace(message=text), [text])
    assert problem is not None
    assert (problem.problem, problem.lasting) == (sentence, lasting)
    assert problem.cure.endswith(".")


def test_a_workflow_without_nodes_has_no_pods() -> None:
    assert read_pods("") == read_pods('{"metadata": {}, "status": {}}') == []
