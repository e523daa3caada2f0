"""Ingest on Google Cloud Dataflow without a Google Cloud project: Beam's real client against servers on 127.0.0.1.

The server parses the job with Dataflow's own messages and runs the pipeline from the file that the client staged. The workers
write their files to a bucket.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.common.artifacts import read_manifest
from components.ingest.config import IngestConfig
from components.ingest.run import run
from tests.support.datasets.image_folder import write_digit_images
from tests.support.engines import ENGINES
from tests.support.ingests import said, start_ingest
from tests.support.local_runs import ROOT, wait_for
from tests.support.servers.bucket_proxy import WRITES, Fault
from tests.support.servers.object_store import Store, object_store

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]
IMAGE = "europe-west4-docker.pkg.dev/some-project/wgan/dataflow@sha256:" + "0" * 64


@pytest.fixture(scope="module")
def python(in_ci: bool) -> Path:
    """Return the Python of an environment with the extra `dataflow`."""
    found = ENGINES / "dataflow/bin/python"
    if not found.exists():
        reason = "the Dataflow client is not installed: run make engines"
        pytest.fail(reason) if in_ci else pytest.skip(reason)
    return found


class Cloud:
    """The servers of Dataflow and of the bucket, their content, and ways to start an ingest that uses them."""

    def __init__(self, python: Path, folder: Path, store: Store, environment: dict[str, str]) -> None:
        self.python, self.folder, self.store, self.environment = python, folder, store, environment
        self.shared = uuid.uuid4().hex  # the folder of this test's jobs in the bucket
        port = (folder / "server/port").read_text()
        self.options = [
            "--runner=DataflowRunner", "--project=some-project", "--region=europe-west4", f"--sdk_container_image={IMAGE}",
            "--temp_location=gs://bucket/temp", "--staging_location=gs://bucket/staging", "--max_num_workers=3",
            "--labels=team=images", "--service_account_email=worker@some-project.iam.gserviceaccount.com",
            "--no_auth", f"--dataflow_endpoint=http://localhost:{port}", "--sdk_location=container",
        ]  # fmt: skip

    def start(self, out: Path, **changed: Any) -> subprocess.Popen[str]:
        config = {"source": "images:gs://bucket/images", "labels_from_folders": True, "image_size": 32,
                  "shared_folder": f"gs://bucket/{self.shared}", "beam_options": self.options} | changed  # fmt: skip
        return start_ingest(out, environment=self.environment, python=self.python, **config)

    def ingest(self, out: Path, **changed: Any) -> tuple[int, str]:
        code = self.start(out, **changed).wait(timeout=300)
        return code, said(out)

    def jobs(self) -> list[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in sorted((self.folder / "server").glob("2026-*.json"))]

    def files_in_bucket(self) -> list[str]:
        return self.store.names(f"{self.shared}/")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataflow") / "images"
    write_digit_images(folder, 600, broken=True)
    return folder


@pytest.fixture(scope="module")
def store(python: Path, pictures: Path) -> Iterator[Store]:
    """A bucket with the pictures."""
    with object_store() as store:
        for file in pictures.rglob("*.*"):
            store.put(f"images/{file.relative_to(pictures)}", file.read_bytes())
        yield store


@pytest.fixture
def cloud(python: Path, store: Store, tmp_path: Path) -> Iterator[Cloud]:
    (tmp_path / "server").mkdir()
    environment = os.environ | {"STORAGE_EMULATOR_HOST": store.url, "PYTHONPATH": str(ROOT)}
    environment |= {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}  # it would look for an account
    command = [python, "-m", "tests.support.servers.dataflow_server", tmp_path / "server"]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: (tmp_path / "server/port").exists(), seconds=60)
        yield Cloud(python, tmp_path, store, environment)
    finally:
        store.proxy.inject()
        server.kill()
        server.wait()


def test_the_submitted_job_produces_the_same_dataset_as_a_local_run(cloud: Cloud, pictures: Path, tmp_path: Path) -> None:
    code, printed = cloud.ingest(tmp_path / "there/dataset")
    assert code == 0, printed
    here = tmp_path / "here/dataset"
    run(IngestConfig(source=f"images:{pictures}", labels_from_folders=True, image_size=32), out=here)
    ours, theirs = read_manifest(here), read_manifest(tmp_path / "there/dataset")
    assert {name: file for name, file in theirs.files.items() if name.endswith(".tfrecord")} == {
        name: file for name, file in ours.files.items() if name.endswith(".tfrecord")
    }
    assert theirs.counts == ours.counts
    assert theirs.counts["quarantined"] == 4

    (job,) = cloud.jobs()
    assert job["name"].startswith("wgan-ingest-")
    assert (job["projectId"], job["location"], job["type"]) == ("some-project", "europe-west4", 1)  # 1: batch
    environment = job["environment"]
    assert environment["serviceAccountEmail"] == "worker@some-project.iam.gserviceaccount.com"
    (pool,) = environment["workerPools"]
    assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 3
    assert job["labels"] == {"team": "images"}
    assert environment["tempStoragePrefix"].startswith(f"storage.googleapis.com/bucket/temp/{job['name']}")
    assert any(name.startswith("staging/") and name.endswith("pipeline.pb") for name in cloud.store.names())
    assert cloud.files_in_bucket() == []  # the workers' intermediate files were removed
    assert f"Job {job['name']} (2026-0) runs on Dataflow in europe-west4" in printed
    assert "Traceback" not in printed


def test_a_worker_without_write_permission_fails_the_run_with_one_sentence(cloud: Cloud, tmp_path: Path) -> None:
    cloud.store.proxy.inject(Fault(403, WRITES, rf"{cloud.shared}/.*/shard-00000\.json"))
    code, printed = cloud.ingest(tmp_path / "there/dataset")
    assert code == 1
    key = cloud.jobs()[0]["name"].removeprefix("wgan-ingest-")
    assert f"Cannot write gs://bucket/{cloud.shared}/{key}/shard-00000.json" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "there/dataset").exists()
    assert any(name.endswith(".chunk") for name in cloud.files_in_bucket())  # decoded images are kept for the next run
    cloud.store.proxy.inject()
    code, printed = cloud.ingest(tmp_path / "there/dataset")
    assert code == 0, printed
    assert "Resuming an earlier run" in printed
    assert cloud.files_in_bucket() == []


def test_rejected_data_leaves_no_files_in_the_bucket(cloud: Cloud, tmp_path: Path) -> None:
    code, printed = cloud.ingest(tmp_path / "there/dataset", max_quarantine_fraction=0.0)
    assert code == 3, printed
    assert cloud.files_in_bucket() == []


def test_stopping_a_run_cancels_its_job(cloud: Cloud, tmp_path: Path) -> None:
    process = cloud.start(tmp_path / "there/dataset")
    wait_for(lambda: bool(cloud.jobs()))
    wait_for(lambda: "runs on Dataflow" in said(tmp_path / "there/dataset"), seconds=30)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == -signal.SIGINT
    assert (cloud.folder / "server/2026-0.cancelled").exists()
    assert "Cancelling job 2026-0" in said(tmp_path / "there/dataset")


@pytest.mark.parametrize("fault", ["403 no permission", "404 no such project"])
def test_an_error_of_the_service_is_reported_in_one_sentence(cloud: Cloud, tmp_path: Path, fault: str) -> None:
    (cloud.folder / "server/fault").write_text(fault)
    code, printed = cloud.ingest(tmp_path / "there/dataset")
    assert code == 1
    assert fault.partition(" ")[2] in printed
    assert "Traceback" not in printed
    assert cloud.jobs() == []


def test_a_running_job_is_not_submitted_a_second_time(cloud: Cloud, tmp_path: Path) -> None:
    first = cloud.start(tmp_path / "one/dataset")
    wait_for(lambda: bool(cloud.jobs()))
    code, printed = cloud.ingest(tmp_path / "two/dataset")
    assert code == 1
    assert "is running already" in printed
    assert first.wait(timeout=300) == 0
    assert len(cloud.jobs()) == 1
