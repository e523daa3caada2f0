"""Kubeflow Pipelines on a cluster: the command line in a process, kubectl, and what the API says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).parent / "digits.toml"
USER = 10001  # of the images
STEPS = ["snapshot", "ingest", "validate", "train", "evaluate", "gate", "push", "report"]
UNCACHED = ["snapshot", "gate", "push", "report"]  # they run also if nothing is new
# What `submit` says of a deleted pod: the second, if Kubeflow has not yet recorded what became of it.
LOST = ("train was lost: its pod was deleted", "train: attempt 1 was lost or failed")
LONG = ["train.rounds=3000", "train.checkpoint_every_rounds=100", "train.sample_every_rounds=3000"]  # time to lose its pod
RESTRICTED = {
    "runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip


class Cluster(NamedTuple):
    """What `make test-cluster` names, and the objects that the tests have made there, all called `name`."""

    host: str
    namespace: str
    image: str
    name: str
    claim: str = ""

    @property
    def folder(self) -> str:
        """Where the claim is mounted; no other session has this path, so none of its cached steps is taken for one of ours."""
        return f"/mnt/{self.name}"

    def kubectl(self, *words: str, objects: Sequence[dict[str, Any]] = (), check: bool = True) -> str:
        """Run kubectl in the namespace; `objects` are its standard input. Return its output, with errors unless `check`."""
        command = ["kubectl", "--namespace", self.namespace, *words, *(["--filename", "-"] if objects else [])]
        given = json.dumps(objects[0] if len(objects) == 1 else {"apiVersion": "v1", "kind": "List", "items": objects})
        errors = subprocess.PIPE if check else subprocess.STDOUT
        done = subprocess.run(command, input=given, stdout=subprocess.PIPE, stderr=errors, text=True, check=False)
        assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def get(self, kind: str, selector: str) -> list[dict[str, Any]]:
        """Return the objects of a kind that have these labels."""
        return list(json.loads(self.kubectl("get", kind, "--selector", selector, "--output", "json"))["items"])

    def api(self, path: str) -> Any:
        """Return the answer of Kubeflow's API."""
        with urllib.request.urlopen(f"{self.host}/apis/v2beta1/{path}", timeout=60) as answer:
            return json.loads(answer.read())

    def runs_of(self, schedule: str) -> list[dict[str, Any]]:
        """Return the runs of a schedule, newest first."""
        found = {each["display_name"]: each["recurring_run_id"] for each in self.api("recurringruns").get("recurringRuns", [])}
        equals = {"operation": "EQUALS", "key": "recurring_run_id", "stringValue": found[schedule]}
        query = {"filter": json.dumps({"predicates": [equals]}), "sort_by": "created_at desc"}
        return list(self.api(f"runs?{urllib.parse.urlencode(query)}").get("runs", []))

    def platform(self) -> list[str]:
        """Return the options that name the platform."""
        multi_user = self.api("healthz").get("multi_user", False)
        return ["--host", self.host, *(["--namespace", self.namespace] if multi_user else [])]

    def settings(self, *overrides: str) -> list[str]:
        """Return the options of a config that runs here."""
        ours = [
            f"deploy.image={self.image}", f"deploy.service_account={self.name}", f"deploy.volume_claim={self.claim}",
            f"run.dir={self.folder}",
        ]  # fmt: skip
        return [word for override in (*ours, *overrides) for word in ("--set", override)]

    def command(self, *words: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
        """Run the command line, with these variables too; return its exit code and its output."""
        variables = os.environ | (environment or {})
        done = subprocess.run(
            _command(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=variables, check=False
        )
        return done.returncode, done.stdout

    def submit(self, output: Path, *overrides: str, file: Path | None = None) -> Run:
        """Start `submit` of the small config, or of a compiled file, in a process that writes into `output`."""
        options = [word for override in overrides for word in ("--set", override)]
        words = [str(file), *options] if file else [str(CONFIG), *self.settings(*overrides)]
        command = _command(["submit", *words, "--name", self.name, *self.platform()])
        with output.open("w") as stream:
            return Run(self, subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT), output)

    def pod(self, name: str, script: str, labels: dict[str, str] | None = None, claim: str = "") -> dict[str, Any]:
        """Return a pod for `kubectl apply` that runs a shell script in our image, as Pod Security `restricted` asks."""
        mounts = {"volumeMounts": [{"name": "data", "mountPath": self.folder}]} if claim else {}
        volumes = {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]} if claim else {}
        container = {
            "name": "main",
            "image": self.image,
            "command": ["sh", "-c", script],
            "securityContext": RESTRICTED,
        } | mounts
        spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]} | volumes
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}}, "spec": spec}

    def run_pod(self, name: str, script: str, labels: dict[str, str] | None = None, claim: str = "") -> str:
        """Run a shell script in a pod to its end and return its output."""
        self.kubectl("apply", objects=[self.pod(name, script, labels, claim)])
        try:
            wait_for(lambda: self._phase(name) in ("Succeeded", "Failed"), f"the end of pod {name}", 180)
            return self.kubectl("logs", name)
        finally:
            self.kubectl("delete", "pod", name, "--grace-period", "0", "--force", check=False)

    def _phase(self, pod: str) -> str:
        return self.kubectl("get", "pod", pod, "--output", "jsonpath={.status.phase}")


class Run:
    """A run that `submit` started, and waits for."""

    def __init__(self, cluster: Cluster, process: subprocess.Popen[bytes], output: Path) -> None:
        self.cluster, self.process, self.output = cluster, process, output

    @property
    def id(self) -> str:
        """The id of the run, as soon as `submit` has printed it."""

        return self._printed[1]

    @property
    def name(self) -> str:
        """The name of the run."""
        return self._printed[0]

    @property
    def _printed(self) -> tuple[str, str]:
        def printed() -> tuple[str, str] | None:
            found = re.search(r"^Run (\S+): \S+/runs/details/(\S+)", self.output.read_text(), re.MULTILINE)
            assert found or self.process.poll() is None, self.output.read_text()
            return (found[1], found[2]) if found else None

        return wait_for(printed, "the name of the run", 120)

    def terminate(self) -> None:
        """Terminate the run, as the user interface does."""
        request = urllib.request.Request(f"{self.cluster.host}/apis/v2beta1/runs/{self.id}:terminate", method="POST")
        urllib.request.urlopen(request, timeout=60).close()

    def end(self) -> None:
        """Terminate the run if it goes on, and wait no longer for it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            self.terminate()

    def remove(self) -> None:
        """End the run and remove its pods, also those that wait for something that will not come."""
        self.end()
        self.cluster.kubectl("delete", "workflows", "--selector", f"pipeline/runid={self.id}", "--wait=false")

    def wait(self, seconds: float = 1200.0) -> tuple[int, str]:
        """Wait for the end of `submit`; return its exit code and its output."""
        code = self.process.wait(seconds)
        return code, self.output.read_text()

    def pods(self, step: str) -> list[dict[str, Any]]:
        """Return the pods that ran a step, oldest first."""
        pods = self.cluster.get("pods", f"pipeline/runid={self.id},app.kubernetes.io/component={step}")
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def running_pod(self, step: str, but: Iterable[str] = (), seconds: float = 600.0) -> str:
        """Wait until a step runs, in a pod that is none of `but`, and return the pod's name."""

        def running() -> str:
            names = [pod["metadata"]["name"] for pod in self.pods(step) if pod["status"]["phase"] == "Running"]
            return next((name for name in names if name not in but), "")

        return wait_for(running, f"a running pod of {step}", seconds)

    def log(self, pod: str) -> str:
        """Return what the step printed."""
        return self.cluster.kubectl("logs", pod, "--container", "main", check=False)

    def exit_codes(self, step: str) -> list[int]:
        """Return the exit code of each attempt of a step, oldest first."""
        statuses = [pod["status"].get("containerStatuses", []) for pod in self.pods(step)]
        main = [status for each in statuses for status in each if status["name"] == "main"]
        return [int(status["state"].get("terminated", {}).get("exitCode", -1)) for status in main]

    def summary(self, shell: str) -> dict[str, Any]:
        """Return summary.json of the run, as the pod `shell` sees it on the volume."""
        file = f"{self.cluster.folder}/{self.name}/summary.json"
        return dict(json.loads(self.cluster.kubectl("exec", shell, "--", "cat", file)))

    def logs(self, step: str) -> str:
        """Return what all attempts of a step printed whose pods are still there."""
        return "".join(self.log(pod["metadata"]["name"]) for pod in self.pods(step))


def wait_for(condition: Callable[[], T], what: str, seconds: float) -> T:
    """Wait until a condition returns something true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(1)
    return found


def _command(words: Iterable[str]) -> list[str]:
    return [sys.executable, "-m", "pipeline", *words]
