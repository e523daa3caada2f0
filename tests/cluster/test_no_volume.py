"""Pods without a volume: all that outlives them is in Kubeflow's object store, also the checkpoint of a lost training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import LONG, LOST, STEPS, UNCACHED, Cluster, Run, wait_for
from tests.cluster.store import Store, store_of


@pytest.fixture(scope="module")
def store(cluster: Cluster) -> Store:
    return store_of(cluster)


@pytest.fixture(scope="module")
def url(cluster: Cluster, store: Store) -> Iterator[str]:
    """The run.dir of these runs, removed at the end."""
    yield f"s3://{store.bucket}/{cluster.name}"
    store.files.rm(f"{store.bucket}/{cluster.name}", recursive=True)


@pytest.fixture(scope="module")
def disturbed(cluster: Cluster, store: Store, url: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has succeeded; the first pod of its training was deleted after a checkpoint."""
    run = cluster.submit(tmp_path_factory.mktemp("disturbed") / "output", *store.settings(url), *LONG)
    try:
        lost = run.running_pod("train")
        wait_for(lambda: store.files.glob(f"{url}/.work/checkpoints/*/round-*/manifest.json"), "a checkpoint", 300)
        cluster.kubectl("delete", "pod", lost)
        code, output = run.wait()
    finally:
        run.end()
    assert code == 0, output
    return run


def outside(cluster: Cluster, store: Store, *words: str) -> str:
    """Return the output of the command line on this machine, which has a key of the store."""
    code, output = cluster.command(*words, environment=store.environment())
    assert code == 0, output
    return output


def summary_of(store: Store, url: str, run: Run) -> dict[str, Any]:
    return dict(json.loads(store.files.cat_file(f"{url}/{run.name}/summary.json")))


def test_the_steps_mount_no_claim(disturbed: Run) -> None:
    volumes = [volume for step in STEPS for pod in disturbed.pods(step) for volume in pod["spec"]["volumes"]]
    assert volumes
    assert not [volume for volume in volumes if "persistentVolumeClaim" in volume]


def test_training_resumes_from_its_checkpoint_in_another_pod(disturbed: Run, store: Store, url: str) -> None:
    assert any(words in disturbed.output.read_text() for words in LOST)
    assert summary_of(store, url, disturbed)["train"]["resumed_from_round"] >= 100


def test_the_run_is_found_and_its_model_is_published(cluster: Cluster, disturbed: Run, store: Store, url: str) -> None:
    assert f"{disturbed.name} succeeded" in " ".join(outside(cluster, store, "runs", "--runs-dir", url).split())
    report = outside(cluster, store, "report", disturbed.name, "--runs-dir", url)
    assert "Published: " in report
    assert f"Report   {url}/{disturbed.name}/report.html" in report
    assert json.loads(outside(cluster, store, "registry", "show", "--registry", f"{url}/registry"))["version"] == "v0001"


def test_an_unchanged_second_run_has_nothing_new(
    cluster: Cluster, disturbed: Run, store: Store, url: str, tmp_path: Path
) -> None:
    second = cluster.submit(tmp_path / "output", *store.settings(url), *LONG)
    code, output = second.wait()
    assert code == 0, output
    assert [step for step in STEPS if second.pods(step)] == UNCACHED, output
    assert "\nNothing new: " in outside(cluster, store, "report", "--runs-dir", url)
    assert summary_of(store, url, second)["run_id"] == second.name
