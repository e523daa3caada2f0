"""A real API server takes every overlay of deploy/kubeflow, and grants the steps' account what its role says and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.conftest import Cluster
from tests.support.local_runs import ROOT

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]
OVERLAYS = ROOT / "deploy" / "kubeflow" / "overlays"
OBJECTS = [
    "namespace/kubeflow", "networkpolicy.networking.k8s.io/wgan-steps", "resourcequota/wgan-tpus",
    "role.rbac.authorization.k8s.io/wgan-runner", "rolebinding.rbac.authorization.k8s.io/wgan-runner",
    "serviceaccount/wgan-runner",
]  # fmt: skip
WITHOUT_VOLUME = {"object-store"}


@pytest.fixture(scope="module", params=sorted(path.name for path in OVERLAYS.iterdir()))
def overlay(request: pytest.FixtureRequest) -> Path:
    return OVERLAYS / str(request.param)


@pytest.fixture(scope="module")
def said(overlay: Path, cluster: Cluster) -> Iterator[list[str]]:
    """What `kubectl apply` says of an overlay, which is removed afterwards."""
    try:
        done = cluster.kubectl("apply", "--validate=strict", "-k", overlay)
        assert done.stderr == ""
        again = cluster.kubectl("apply", "--validate=strict", "-k", overlay).stdout.splitlines()
        assert again == [f"{line.rsplit(' ', 1)[0]} unchanged" for line in done.stdout.splitlines()]
        yield done.stdout.splitlines()
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-k", overlay)


def test_every_object_is_created_once_and_then_unchanged(overlay: Path, said: list[str]) -> None:
    volume = [] if overlay.name in WITHOUT_VOLUME else ["persistentvolumeclaim/wgan"]
    assert sorted(said) == sorted(f"{each} created" for each in [*OBJECTS, *volume])


def test_a_misspelt_field_is_refused(cluster: Cluster) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}, "automountServiceAcountToken": False}
    done = cluster.kubectl("apply", "--validate=strict", "-f", "-", stdin=account, check=False)
    assert (done.returncode, 'unknown field "automountServiceAcountToken"' in done.stderr) == (1, True)


def test_the_account_of_the_steps_may_do_what_its_role_says(said: list[str], cluster: Cluster) -> None:
    def may(*words: str) -> bool:
        account = "--as=system:serviceaccount:kubeflow:wgan-runner"
        return cluster.kubectl("auth", "can-i", *words, account, check=False).stdout == "yes\n"

    assert may("list", "pods")
    assert may("get", "configmaps/kfp-launcher")
    assert may("get", "secrets/mlpipeline-minio-artifact")
    assert not may("get", "secrets/other")
    assert not may("list", "secrets")
    assert not may("create", "pods")
    assert not may("delete", "pods")
