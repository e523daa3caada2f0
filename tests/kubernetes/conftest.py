"""Fixtures: a Kubernetes with one node on this machine, and a namespace made by an overlay of deploy/kubeflow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import containers
from tests.support.engines import ENGINES
from tests.support.local_runs import ROOT

SCRIPT = ROOT / "deploy" / "engines" / "kubernetes" / "cluster"
NUMBER = "1"  # of this cluster: another one may be running
PACKAGES = {
    "containerd": "containerd", "runc": "runc", "podman": "podman", "mmdebstrap": "mmdebstrap", "iptables": "iptables",
    "ip": "iproute2", "openssl": "openssl", "/usr/lib/cni/ptp": "containernetworking-plugins",
}  # fmt: skip


class Cluster:
    """A running cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def kubectl(self, *words: str | Path, stdin: Any = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl; `stdin` is an object for `-f -`."""
        given = json.dumps(stdin) if stdin is not None else None
        done = subprocess.run(self.command(*words), input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def command(self, *words: str | Path) -> list[str | Path]:
        """Return the words of a kubectl command, in the namespace of the overlays."""
        return [SCRIPT, "kubectl", self.folder, "--namespace=kubeflow", *words]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Return an object."""
        return dict(json.loads(self.kubectl("get", kind, name, "-o", "json").stdout))

    def wait(self, name: str, *phases: str, seconds: int = 120) -> dict[str, Any]:
        """Return a pod when it is in one of `phases`."""
        for _ in range(seconds):
            pod = self.get("pod", name)
            if pod["status"]["phase"] in phases:
                return pod
            time.sleep(1)
        raise AssertionError(f"{name} is not in {phases} after {seconds} s: {pod['status']}")


def missing() -> str:
    """Return why there can be no cluster here; empty if there can."""
    if os.getuid() != 0:
        return "the kubelet needs root"
    if packages := sorted({package for program, package in PACKAGES.items() if shutil.which(program) is None}):
        return f"{', '.join(packages)} missing: apt-get install -y --no-install-recommends {' '.join(packages)}"
    if not all((ENGINES / program).exists() for program in ("kubernetes", "pause")):
        return "Kubernetes is not built: run deploy/engines/get .engines kubernetes (needs go)"
    return ""


@pytest.fixture(scope="session")
def cluster(in_ci: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that runs no other pods."""
    if reason := missing():
        pytest.fail(reason) if in_ci else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("cluster")
    try:
        subprocess.run([SCRIPT, "up", folder, NUMBER], check=True)
        yield Cluster(folder)
    finally:
        subprocess.run([SCRIPT, "down", folder], check=True)


@pytest.fixture(scope="session")
def image(cluster: Cluster) -> str:
    """The image `data`, built from this checkout, on the node."""
    with containers.engine():
        name = containers.make_data_image()
    subprocess.run([SCRIPT, "load", cluster.folder, name], check=True, stdout=subprocess.DEVNULL)
    return name
