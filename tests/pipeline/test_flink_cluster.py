"""Ingest on a real Flink cluster whose machines share only an object store; it is interrupted, and a task manager is killed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.common.artifacts import read_manifest
from tests.support.datasets.image_folder import write_digit_images
from tests.support.engines import EngineMissingError, is_installable
from tests.support.ingests import ingest_command, said, said_file
from tests.support.local_runs import wait_for
from tests.support.namespaces import NamespacesMissingError
from tests.support.servers.flink_cluster import Cluster, flink_cluster

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]
RESTARTS = {"restart-strategy.type": "fixed-delay", "restart-strategy.fixed-delay.attempts": "3",
            "restart-strategy.fixed-delay.delay": "1 s"}  # fmt: skip


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a bucket of about 1,400 images: six chunks, with broken images, and with duplicates."""
    buckets = tmp_path_factory.mktemp("buckets")
    images = buckets / "bucket" / "images"
    write_digit_images(images, 1400, broken=True)
    (images / "z").mkdir()
    for file in sorted((images / "0").glob("*.png"))[:20]:
        (images / "z" / file.name).write_bytes(file.read_bytes())
    return buckets


@contextlib.contextmanager
def cluster_or_skip(folder: Path, buckets: Path, settings: dict[str, str], in_ci: bool) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(flink_cluster(folder, buckets, settings))
        except (EngineMissingError, NamespacesMissingError) as error:
            if in_ci and is_installable("flink"):
                raise
            pytest.skip(str(error))
        yield cluster


def start(cluster: Cluster, out: Path, options: list[str]) -> subprocess.Popen[bytes]:
    """Start ingest on the machine of the object store."""
    folders = {"source": "images:gs://bucket/images", "shared_folder": "gs://bucket/ingest"}
    command = ingest_command(out, labels_from_folders=True, image_size=32, beam_options=options, **folders)
    return cluster.store.start(command, said_file(out), **cluster.environment)


def ingest(cluster: Cluster, out: Path, options: list[str]) -> str:
    """Run ingest and return the digest of the dataset."""
    assert start(cluster, out, options).wait(timeout=200) == 0, said(out)
    return read_manifest(out, "dataset").digest


def writing(cluster: Cluster, out: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start ingest on the cluster; return it once a task manager's machine has written a file, with the number of that one."""
    before = cluster.uploads()
    process = start(cluster, out, cluster.options)
    wait_for(lambda: cluster.uploads() != before or process.poll() is not None)
    assert process.poll() is None, said(out)
    return process, [now > then for now, then in zip(cluster.uploads(), before, strict=True)].index(True)


def test_a_cluster_gives_the_bytes_of_one_process_also_after_an_interrupt_and_without_a_killed_task_manager(
    buckets: Path, tmp_path: Path, in_ci: bool
) -> None:
    with cluster_or_skip(tmp_path, buckets, RESTARTS, in_ci) as cluster:
        digest = ingest(cluster, tmp_path / "one" / "dataset", [])
        assert cluster.uploads() == [0, 0]
        assert ingest(cluster, tmp_path / "undisturbed" / "dataset", cluster.options) == digest
        counts = read_manifest(tmp_path / "undisturbed" / "dataset").counts
        assert (counts["read"], counts["quarantined"], counts["duplicate"]) == (1424, 4, 20)
        assert all(cluster.uploads()), "both machines wrote"

        out, log = tmp_path / "disturbed" / "dataset", tmp_path / "job-manager" / "log"
        process, _ = writing(cluster, out)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == -signal.SIGINT
        assert "Cancelled job wgan-" in said(out)
        wait_for(lambda: "switched from state CANCELLING to CANCELED" in log.read_text(), seconds=60)

        process, number = writing(cluster, out)
        assert "Resuming an earlier run" in said(out)
        cluster.kill_task_manager(number)
        assert process.wait(timeout=200) == 0, said(out)
        assert read_manifest(out, "dataset").digest == digest
        assert "switched from state RUNNING to RESTARTING" in log.read_text()
        wait_for(lambda: not cluster.task_managers[number].processes(), seconds=30)  # its Python worker noticed
        assert sorted(path.name for path in out.parent.iterdir()) == ["config.toml", "dataset", "said"], "no other files"


def test_without_restarts_a_killed_task_manager_ends_the_run_with_one_sentence_and_the_next_run_resumes(
    buckets: Path, tmp_path: Path, in_ci: bool
) -> None:
    with cluster_or_skip(tmp_path, buckets, {}, in_ci) as cluster:
        out = tmp_path / "killed" / "dataset"
        process, number = writing(cluster, out)
        cluster.kill_task_manager(number)
        assert process.wait(timeout=200) == 1
        assert not out.exists()
        assert said(out).count("ingest: ") == 1, "one sentence"
        assert "ingest: A Beam worker ended unexpectedly" in said(out)
        assert "Run again: finished chunks are reused." in said(out)

        resumed = ingest(cluster, out, [])
        assert "Resuming an earlier run" in said(out)
        assert resumed == ingest(cluster, tmp_path / "one" / "dataset", [])
