"""The service account with the least role, Pod Security, and the network policy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cluster.cluster import ROOT, STEPS, Cluster, Run, wait_for

LABELS = {"app.kubernetes.io/name": "wgan-tpu-pipeline"}
POLICY = ROOT / "deploy" / "kubeflow" / "base" / "network-policy.yaml"


def test_every_step_ran_as_the_service_account_with_the_least_role(cluster: Cluster, first_run: Run) -> None:
    assert all(first_run.pods(step) for step in STEPS)
    pods = cluster.get("pods", f"pipeline/runid={first_run.id}")
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {cluster.name}


@pytest.mark.parametrize(
    "request_", ["get secrets", "create pods", "delete pods", "create pods/exec", "create workflows.argoproj.io", "get nodes"]
)
def test_the_account_may_not(cluster: Cluster, request_: str) -> None:
    account = f"system:serviceaccount:{cluster.namespace}:{cluster.name}"
    assert cluster.kubectl("auth", "can-i", *request_.split(), "--as", account, check=False).split()[-1] == "no"


def test_pod_security_restricted_refuses_other_pods(cluster: Cluster, restricted: None) -> None:
    pod = cluster.pod(f"{cluster.name}-root", "true")
    pod["spec"]["containers"][0]["securityContext"] = {}
    answer = cluster.kubectl("apply", objects=[pod], check=False)
    assert 'violates PodSecurity "restricted' in answer


def test_the_network_policy(cluster: Cluster, tmp_path: Path) -> None:
    """Steps cannot be connected to, and what they need they reach; skipped if the cluster's network ignores policies."""
    listener, client = f"{cluster.name}-listener", f"{cluster.name}-client"
    policy = yaml.safe_load(POLICY.read_text()) | {"metadata": {"name": cluster.name}}
    objects = [cluster.pod(listener, "python -m http.server 8000 --directory /tmp", LABELS)]
    cluster.kubectl("apply", objects=objects)
    try:
        cluster.kubectl("wait", "--for", "condition=Ready", f"pod/{listener}", "--timeout", "180s")
        address = cluster.kubectl("get", "pod", listener, "--output", "jsonpath={.status.podIP}")
        connect = f"import socket; socket.create_connection(('{address}', 8000), 5); print('connected')"

        def connects() -> bool:
            return "connected" in cluster.run_pod(client, f'python -c "{connect}"', LABELS)

        wait_for(connects, "a connection without the policy", 60)
        cluster.kubectl("apply", objects=[policy])
        objects.append(policy)
        if connects():
            pytest.skip("this cluster's network does not enforce NetworkPolicy: a pod that the policy isolates was reached")
        code, output = cluster.submit(tmp_path / "output", "train.seed=20").wait()
        assert code == 0, output
    finally:
        cluster.kubectl("delete", "--wait=false", objects=objects)
