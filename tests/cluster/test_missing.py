"""What a run needs of the cluster and is not there: `submit` says so, and what to do, and ends if waiting does not help.

All runs are started at once: `submit` waits five minutes for each.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster, Run, wait_for

TPU = "requests.google.com/tpu"
NOT_WAITED = "Not waited for any longer: snapshot cannot start: "
MISSING = {
    "claim": (
        ["deploy.volume_claim=nothing"],
        f"{NOT_WAITED}the volume claim nothing does not exist",
        "deploy/kubeflow/volume",
    ),
    "image": (["deploy.image=localhost/nothing:1"], f"{NOT_WAITED}the image localhost/nothing:1 cannot be pulled", "Push it"),
    "secret": (["deploy.s3_secret=nothing"], f"{NOT_WAITED}the secret nothing does not exist", "deploy/kubeflow/overlays"),
    "account": (
        ["deploy.service_account=nothing"],
        "Failed: the run cannot start: the service account nothing does not exist",
        "deploy.service_account",
    ),
    "role": (
        ["deploy.service_account={name}-no-role"],
        "Failed: the run could not start: ",
        "the role in deploy/kubeflow/base",
    ),
}
WAITING = {
    "cpu": (["deploy.cpu=1000"], "waits for a machine: ", "Insufficient cpu"),
    "quota": (
        ["train.devices=tpu", "deploy.tpu_check=false", "deploy.tpu_image={image}"],
        "train waits for the quota {name}: ",
        f"{TPU}=8 requested, {TPU}=0 in use, {TPU}=0 allowed",
    ),
}


@pytest.fixture(scope="module")
def submitted(cluster: Cluster, first_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """Runs that wait; `first_run` has left in the cache what the one without a quota needs before it trains."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": f"{cluster.name}-no-role"}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": cluster.name}, "spec": {"hard": {TPU: "0"}}}
    cluster.kubectl("apply", objects=[account, quota])
    folder = tmp_path_factory.mktemp("submitted")
    runs: dict[str, Run] = {}
    try:
        for case, (overrides, _, _) in (MISSING | WAITING).items():
            named = [override.format(name=cluster.name, image=cluster.image) for override in overrides]
            runs[case] = cluster.submit(folder / case, *named)
        yield runs
    finally:
        for run in runs.values():
            run.remove()
        cluster.kubectl("delete", objects=[account, quota])


@pytest.mark.parametrize("case", WAITING)
def test_submit_says_what_a_pod_waits_for(cluster: Cluster, submitted: dict[str, Run], case: str) -> None:
    _, sentence, detail = WAITING[case]
    run = submitted[case]
    wait_for(lambda: sentence.format(name=cluster.name) in run.output.read_text(), f"the sentence {sentence!r}", 600)
    assert detail in run.output.read_text()
    assert "was lost" not in run.output.read_text()
    assert run.process.poll() is None


@pytest.mark.parametrize("case", MISSING)
def test_submit_ends_with_what_is_missing_and_the_cure(submitted: dict[str, Run], case: str) -> None:
    _, sentence, cure = MISSING[case]
    code, output = submitted[case].wait()
    assert code == 1, output
    last = output.splitlines()[-1]
    assert sentence in last, output
    assert cure in last, output
