"""What the tests make in the namespace, and remove: a claim, a service account, its role, and a pod that reads the claim.

They run only when `make test-cluster` names a cluster.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import ROOT, Cluster, Run

collect_ignore_glob = [] if os.environ.get("CLUSTER_HOST") else ["test_*.py"]
DEPLOYED = ("service-account.yaml", "role.yaml")
ACCOUNT = "wgan-runner"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(1800))


def claim(name: str, size: str) -> dict[str, Any]:
    """Return a claim of the cluster's default storage class, or of CLUSTER_STORAGE_CLASS."""
    storage_class = os.environ.get("CLUSTER_STORAGE_CLASS")
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": size}}}
    spec |= {"storageClassName": storage_class} if storage_class else {}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, with a claim, and the service account and the role of deploy/kubeflow under another name."""
    found = Cluster(
        *(os.environ[f"CLUSTER_{key}"] for key in ("HOST", "NAMESPACE", "IMAGE")), f"wgan-test-{secrets.token_hex(3)}"
    )
    text = "---\n".join((ROOT / "deploy" / "kubeflow" / "base" / file).read_text() for file in DEPLOYED)
    account = list(yaml.safe_load_all(text.replace(ACCOUNT, found.name)))
    objects = [*account, claim(found.name, "2Gi")]
    try:
        found.kubectl("apply", objects=objects)
        yield found._replace(claim=found.name)
    finally:
        found.kubectl("delete", "--wait=false", objects=objects, check=False)
        _delete_pods(found)


def _delete_pods(cluster: Cluster) -> None:
    """Delete the pods of our runs: Kubernetes keeps their claims as long as they are there, though they have ended."""
    pods = json.loads(cluster.kubectl("get", "pods", "--output", "json"))["items"]
    volumes = {pod["metadata"]["name"]: pod["spec"].get("volumes", []) for pod in pods}
    claims = {name: [each.get("persistentVolumeClaim", {}).get("claimName", "") for each in of] for name, of in volumes.items()}
    if ours := [name for name, used in claims.items() if any(claim.startswith(cluster.name) for claim in used)]:
        cluster.kubectl("delete", "pods", *ours, "--wait=false", check=False)


@pytest.fixture(scope="session")
def shell(cluster: Cluster) -> Iterator[str]:
    """The name of a pod that mounts the claim and sleeps, to look at files with `kubectl exec`."""
    name = f"{cluster.name}-shell"
    cluster.kubectl("apply", objects=[cluster.pod(name, "sleep 36000", claim=cluster.claim)])
    try:
        cluster.kubectl("wait", "--for", "condition=Ready", f"pod/{name}", "--timeout", "180s")
        yield name
    finally:
        cluster.kubectl("delete", "pod", name, "--grace-period", "0", "--force", check=False)


@pytest.fixture(scope="session")
def restricted(cluster: Cluster) -> Iterator[None]:
    """Pod Security `restricted` enforced in the namespace; afterwards what was enforced before."""
    key = "pod-security.kubernetes.io/enforce"
    path = "jsonpath={.metadata.labels." + key.replace(".", r"\.") + "}"
    before = cluster.kubectl("get", "namespace", cluster.namespace, "--output", path)
    cluster.kubectl("label", "--overwrite", "namespace", cluster.namespace, f"{key}=restricted")
    yield
    cluster.kubectl("label", "--overwrite", "namespace", cluster.namespace, f"{key}={before}" if before else f"{key}-")


@pytest.fixture(scope="session")
def first_run(cluster: Cluster, restricted: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has succeeded, with every step in a pod that Pod Security `restricted` admitted.

    What runs this configuration in this run.dir again must come after it, since nothing is new then.
    """
    run = cluster.submit(tmp_path_factory.mktemp("first") / "output")
    code, output = run.wait()
    assert code == 0, output
    return run


@pytest.fixture
def runs(cluster: Cluster) -> Iterator[list[Run]]:
    """A list for the runs of a test: what is still going on after it is terminated."""
    started: list[Run] = []
    yield started
    for run in started:
        run.end()
