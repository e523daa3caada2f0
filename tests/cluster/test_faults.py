"""What a cluster does to pods: no memory, deletion, eviction, a full volume; and what becomes of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.cluster import CONFIG, LONG, LOST, Cluster, Run, wait_for
from tests.cluster.conftest import claim

SMALL_MIB = 64


def test_a_step_without_enough_memory(cluster: Cluster, tmp_path: Path, runs: list[Run]) -> None:
    file = tmp_path / "pipeline.yaml"
    settings = cluster.settings("train.seed=10")
    code, output = cluster.command("compile", str(CONFIG), *settings, "--target", "kubeflow", "-o", str(file))
    assert code == 0, output
    spec, platform = yaml.safe_load_all(file.read_text())
    resources = spec["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"]
    resources |= {"memoryRequest": 0.1, "resourceMemoryRequest": "100M", "memoryLimit": 0.1, "resourceMemoryLimit": "100M"}
    file.write_text(yaml.safe_dump_all([spec, platform]))
    runs.append(run := cluster.submit(tmp_path / "output", file=file))
    code, output = run.wait()
    assert code == 1, output
    assert output.splitlines()[-1].startswith("Failed: train was killed because its memory was used up"), output


def delete(cluster: Cluster, pod: str) -> None:
    cluster.kubectl("delete", "pod", pod)


def evict(cluster: Cluster, pod: str) -> None:
    path = f"/api/v1/namespaces/{cluster.namespace}/pods/{pod}/eviction"
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": cluster.namespace}}
    cluster.kubectl("create", "--raw", path, objects=[eviction])


@pytest.mark.parametrize(("seed", "remove"), [(11, delete), (12, evict)], ids=["deleted", "evicted"])
def test_training_resumes_from_its_checkpoint_in_another_pod(
    cluster: Cluster,
    shell: str,
    tmp_path: Path,
    runs: list[Run],
    seed: int,
    remove: Callable[[Cluster, str], None],
) -> None:
    def checkpoints() -> set[str]:
        script = f"ls -d {cluster.folder}/.work/checkpoints/*/round-???????? || true"
        return set(cluster.kubectl("exec", shell, "--", "sh", "-c", script).split())

    before = checkpoints()
    runs.append(run := cluster.submit(tmp_path / "output", *LONG, f"train.seed={seed}"))
    lost = run.running_pod("train")
    wait_for(lambda: checkpoints() - before, "a checkpoint", 300)
    remove(cluster, lost)
    code, output = run.wait()
    assert code == 0, output
    assert any(words in output for words in LOST), output
    assert run.summary(shell)["train"]["resumed_from_round"] >= 100


@pytest.fixture
def small(cluster: Cluster) -> Iterator[str]:
    """A claim that holds no more than it asks for, which not every storage class sees to."""
    name = f"{cluster.name}-small"
    objects = [claim(name, f"{SMALL_MIB}Mi")]
    cluster.kubectl("apply", objects=objects)
    try:
        total = int(cluster.run_pod(f"{name}-size", f"df -m --output=size {cluster.folder} | tail -1", claim=name))
        if total > 2 * SMALL_MIB:
            pytest.skip(f"a claim of {SMALL_MIB} MiB has {total} MiB here")
        yield name
    finally:
        cluster.kubectl("delete", "--wait=false", objects=objects)


def test_a_full_volume(cluster: Cluster, small: str, tmp_path: Path) -> None:
    fill = f"dd if=/dev/zero of={cluster.folder}/filler bs=64k; mkdir {cluster.folder}/.work"
    cluster.run_pod(f"{small}-fill", fill, claim=small)
    run = cluster.submit(tmp_path / "output", f"deploy.volume_claim={small}")
    code, output = run.wait()
    assert code == 1, output
    assert output.splitlines()[-1].startswith("Failed: ingest failed")
    assert "No space left on device" in run.logs("ingest")
    assert "  report: succeeded\n" in output
    cluster.run_pod(f"{small}-empty", f"rm {cluster.folder}/filler", claim=small)
    code, output = cluster.submit(tmp_path / "again", f"deploy.volume_claim={small}").wait()
    assert code == 0, output
