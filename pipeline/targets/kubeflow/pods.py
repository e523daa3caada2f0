"""Why the pods of a run wait or failed, in plain words with a cure.

KFP's API (v2beta1) has states only. Argo's workflow, which the older API (v1beta1) of the same server returns, has a message
for each pod: why it is not scheduled or cannot start, how it ended, or why it could not be created. Volumes that cannot be
mounted are only in the pod's events, which KFP's user interface serves to everybody who may see the run. So no access to the
cluster is needed.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from pipeline.targets.remote import DRIVER, PodProblem, is_step

WAITING, FAILED = ("Pending",), ("Failed", "Error")
DELETED = "pod deleted"  # also of a pod whose deadline has passed, or that was evicted: the events tell
QUIET = ("", "ContainerCreating", "PodInitializing")  # a pod that only the events explain


class Pod(NamedTuple):
    """A pod of a run, as a node of Argo's workflow describes it; `step` is "" for a pod that prepares the whole run."""

    step: str
    attempt: int
    driver: bool
    phase: str
    message: str
    name: str
    namespace: str
    image: str
    memory: str


class Reason(NamedTuple):
    """A row of the table: what Kubernetes says, what that means for a step, and what to do.

    `lasting`: somebody must change something; waiting does not help.
    """

    pattern: str
    problem: str
    cure: str
    lasting: bool = False


# The first row that matches decides. Messages are those of Kubernetes 1.34 and Argo 4.0 (tests/targets/kubeflow/pods).
REASONS = (
    Reason(
        r"^KFP driver: .*is forbidden: (?P<detail>.+)",
        "could not start: Kubeflow's driver may not do its work: {detail}",
        "Give the service account of the run the role in deploy/kubeflow/base.",
    ),
    Reason(
        r"^KFP driver: (?P<detail>.+)",
        "could not start: Kubeflow's driver ended with: {detail}",
        "kubectl -n {namespace} logs {name} -c main shows more.",
    ),
    Reason(
        r'persistentvolumeclaim "(?P<name>[^"]+)" (?:not found|is being deleted)',
        "cannot start: the volume claim {name} does not exist in the namespace {namespace}",
        "Create it (deploy/kubeflow/volume), or name another one in deploy.volume_claim.",
        lasting=True,
    ),
    Reason(
        r"unbound immediate PersistentVolumeClaims",
        "waits for its volume: the claim is not bound to one",
        "kubectl -n {namespace} describe pvc says why: no storage class, no provisioner, or no space.",
    ),
    Reason(
        r"volume node affinity conflict",
        "waits for a machine: its volume is in another zone than the machines that fit",
        "Use a volume that all machines reach, such as NFS.",
    ),
    Reason(
        r"Multi-Attach error|exclusively attached|ReadWriteOncePod",
        "cannot start: another machine uses its volume, which one machine at a time can mount",
        "Use a claim with ReadWriteMany (deploy/kubeflow/volume).",
    ),
    Reason(
        r'secret "(?P<name>[^"]+)" not found',
        "cannot start: the secret {name} does not exist in the namespace {namespace}",
        "Create it (deploy/kubeflow/overlays: object-store, bucket-key), or name another one in [deploy].",
        lasting=True,
    ),
    Reason(
        r'configmap "(?P<name>[^"]+)" not found',
        "cannot start: the config map {name} does not exist in the namespace {namespace}",
        "Kubeflow Pipelines creates it: complete its installation in this namespace.",
        lasting=True,
    ),
    Reason(
        r"FailedMount|FailedAttachVolume|MountVolume|AttachVolume|Unable to attach or mount",
        "cannot start: a volume cannot be mounted: {text}",
        "Check that the volume's server can be reached from the machine.",
    ),
    Reason(
        r"exceeded quota: (?P<name>[^,]+), requested: (?P<asked>.+), used: (?P<used>.+), limited: (?P<limit>.+)",
        "waits for the quota {name}: {asked} requested, {used} in use, {limit} allowed",
        "Wait for other pods to end, ask for less in [deploy], or have the quota raised.",
    ),
    Reason(
        r"failed quota: (?P<name>[^:]+): (?P<detail>.+)",
        "cannot start: the quota {name} wants limits that the pod does not set ({detail})",
        "Add a LimitRange with defaults to the namespace {namespace}.",
        lasting=True,
    ),
    Reason(
        r'serviceaccount "(?P<name>[^"]+)" not found',
        "cannot start: the service account {name} does not exist in the namespace {namespace}",
        "Apply deploy/kubeflow, or correct deploy.service_account.",
        lasting=True,
    ),
    Reason(
        r'violates PodSecurity "(?P<name>[^":]+)[^"]*": (?P<detail>.+)',
        "cannot start: the namespace {namespace} forbids such a pod (Pod Security {name}): {detail}",
        "Compile the pipeline again with this version, or label the namespace with a lower level.",
        lasting=True,
    ),
    Reason(
        r"is forbidden: (?P<detail>.+)|admission webhook (?P<webhook>.+)",
        "cannot start: the cluster forbids its pod: {detail}{webhook}",
        "Ask the administrator of the cluster.",
        lasting=True,
    ),
    Reason(
        r'Failed to pull image "(?P<name>[^"]+)": ',
        "cannot start: the image {name} cannot be pulled: {text}",
        "Push it, correct it in [deploy], or give the cluster access to its registry.",
        lasting=True,
    ),
    Reason(
        r"(?:ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull|ImageInspectError): ",
        "cannot start: the image {image} cannot be pulled: {text}",
        "Push it, correct it in [deploy], or give the cluster access to its registry.",
        lasting=True,
    ),
    Reason(
        r"(?:CreateContainer\w*Error|RunContainerError|StartError|ContainerCannotRun)\b.*: .+",
        "cannot start: its container does not start: {text}",
        "Check that deploy.image is an image of this program for the machine's processor.",
        lasting=True,
    ),
    Reason(
        r"(?:Unschedulable|FailedScheduling): (?P<detail>.+?)(?:\. |$)",
        "waits for a machine: {detail}",
        "Wait, add machines, or ask for less in [deploy].",
    ),
    Reason(
        r"OOMKilled|low on resource: memory",
        "was killed because its memory was used up (deploy.memory = {memory})",
        "Raise deploy.memory.",
    ),
    Reason(
        r"low on resource: (?P<name>[\w-]+)|(?P<local>ephemeral[- ]storage|EmptyDir volume)",
        "was evicted: {sentence}",
        "Free the machine's disk, or use machines with larger ones: it holds images, logs and the steps' outputs.",
    ),
    Reason(
        r"longer than the specified deadline|exceeded its deadline|DeadlineExceeded",
        "took longer than deploy.timeout_hours allows",
        "Raise deploy.timeout_hours; the next run continues from the last checkpoint.",
    ),
    Reason(
        r"^pod deleted|[Pp]reempt|node shutdown|Node is shutting down|node was lost",
        "was lost: its pod was deleted, as when its machine is preempted, drained or dies",
        "Run again: it continues where it stopped.",
    ),
    Reason(
        r"failed to put file: (?P<detail>.+)",
        "failed: Kubeflow's object store took no file: {text}",
        "Check that it runs: kubectl -n {namespace} get pods.",
    ),
    Reason(r'^Pulling: Pulling image "(?P<name>[^"]+)"', "waits for its image {name}, which is being pulled", ""),
    Reason(r"exit code \d+\): (?P<detail>.+)", "failed: {detail}", ""),
)


def explain(pod: Pod, texts: Iterable[str]) -> PodProblem | None:
    """Return what the first of these texts of Kubernetes or Argo that is in the table means.

    Without one, a pod that waits gets the command that shows why, and one that failed its message, None if that says nothing.
    """
    for text in (" ".join(text.split()) for text in texts):
        for reason in REASONS:
            if found := re.search(reason.pattern, text):
                known = {**pod._asdict(), **{name: value or "" for name, value in found.groupdict().items()}}
                sentence = text.partition(". ")[0]
                known |= {"sentence": sentence, "text": _last_part(sentence), "memory": pod.memory or "unset"}
                problem, cure = reason.problem.format(**known), reason.cure.format(**known)
                return _problem(pod, reason.pattern, problem, cure, lasting=reason.lasting)
    if pod.phase in WAITING:
        cure = f"kubectl -n {pod.namespace} describe pod {pod.name} says why."
        return _problem(pod, "", "waits for its pod" if pod.message in QUIET else f"waits for its pod: {pod.message}", cure)
    if pod.message and "exit code" not in pod.message:
        return _problem(pod, "", f"failed: {pod.message}", "")
    return None


def _problem(pod: Pod, kind: str, problem: str, cure: str, *, lasting: bool = False) -> PodProblem:
    sentence = f"{pod.step or 'the run'} {problem}".rstrip(". ")
    return PodProblem(pod.step, pod.attempt, pod.phase in WAITING, kind, sentence, cure, lasting)


def read_pods(manifest: str) -> list[Pod]:
    """Return the pods of Argo's workflow that wait or failed, in the order in which they were started."""
    workflow = json.loads(manifest) if manifest else {}
    metadata, status = workflow.get("metadata", {}), workflow.get("status", {})
    nodes = [node for node in (status.get("nodes") or {}).values() if node.get("type") == "Pod"]
    nodes.sort(key=lambda node: str(node.get("startedAt", "")))
    return [_pod(node, metadata) for node in nodes if node.get("phase") in (*WAITING, *FAILED)]


def event_texts(events: Iterable[Any]) -> list[str]:
    """Return the events of a pod since it got its machine as "REASON: MESSAGE", the latest first."""
    ordered = sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    texts = [f"{event.get('reason')}: {event.get('message')}" for event in reversed(ordered)]
    return list(itertools.takewhile(lambda text: not text.startswith("Scheduled:"), texts))


def driver_error(log: str) -> str:
    """Return the line with which Kubeflow's driver ends its log when it fails, "" if there is none."""
    found = re.search(r"KFP driver: .+", log)
    return found[0] if found else ""


def _pod(node: Any, metadata: Any) -> Pod:
    """Return a node as a pod. Its name is a path, such as `wgan-x(0).root(0).exit-handler-1(0).train(0).executor(1)`."""
    *path, last = node["name"].split(".")
    steps = [name for name in (re.sub(r"\(\d+\)$", "", each) for each in (*path, last)) if is_step(name.removesuffix(DRIVER))]
    attempt = re.search(r"\((\d+)\)$", last)
    name, workflow = node["id"], metadata.get("name", "")
    if metadata.get("annotations", {}).get("workflows.argoproj.io/pod-name-format") != "v1":
        name = f"{workflow}-{node.get('templateName', '')}-{node['id'].rpartition('-')[2]}"
    container = _main_container(node)
    recreated = node["phase"] in WAITING and node.get("message") == DELETED  # Argo makes it again
    return Pod(
        step=steps[-1].removesuffix(DRIVER) if steps else "",
        attempt=int(attempt[1]) + 1 if attempt else 1,
        driver=last.partition("(")[0].endswith(DRIVER),
        phase=node["phase"],
        message="" if recreated else node.get("message", ""),
        name=name,
        namespace=metadata.get("namespace", ""),
        image=container.get("image", "of Kubeflow's own container"),
        memory=container.get("resources", {}).get("requests", {}).get("memory", ""),
    )


def _main_container(node: Any) -> Any:
    """Return the container of a step as KFP's driver put it into the pod: image and resources, {} for a driver's own pod."""
    parameters = node.get("inputs", {}).get("parameters", [])
    patches = [each.get("value") for each in parameters if each["name"] == "pod-spec-patch"]
    containers = json.loads(patches[0]).get("containers", []) if patches and patches[0] else []
    return next((each for each in containers if each.get("name") == "main"), {})


def _last_part(text: str) -> str:
    """Return what a chain of errors ends with: the cause, without the layers that passed it on."""
    return text.rstrip(". ").rpartition(": ")[2][:200]
