"""Runs on Kubeflow with run.dir at an s3:// URL: the steps share no disk, and each has a read-only root (tests/support/pod)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from components.common.journal import STEPS
from pipeline.config import load_config
from pipeline.targets.kubeflow.compiler import compile_pipeline
from tests.support.command_line import output_of
from tests.support.local_runs import ROOT, wait_for
from tests.support.servers.run_compiled import Job, ended_tasks, start_compiled
from tests.support.servers.s3_server import S3Server
from tests.support.two_runs import made_in

pytestmark = pytest.mark.timeout(1800)
POD = ROOT / "tests" / "support" / "pod"
CONFIG = """
[ingest]
image_size = 8
[train]
precision = "float32"
rounds = 100
rounds_per_call = 10
checkpoint_every_rounds = 20
sample_every_rounds = 40
global_batch_size = 16
n_critic = 3
generator_channels = 8
critic_channels = 8
[evaluate]
samples = 300
real_images = 500
extractor_epochs = 1
kid_subsets = 4
kid_subset_size = 100
[gate]
first_share = 0.0
"""


class Cluster(NamedTuple):
    """Where steps run, and where the platform keeps their artifacts and its cache."""

    server: S3Server
    folder: Path

    def start(self, url: str, root: str, cache: str) -> subprocess.Popen[bytes]:
        """Compile for Kubeflow with run.dir at a URL, without a volume, and start a run."""
        (self.folder / "config.toml").write_text(CONFIG)
        file = self.folder / f"{root}.yaml"
        compile_pipeline(load_config(self.folder / "config.toml", [f"run.dir={url}"]), file)
        (self.folder / "scratch").mkdir(exist_ok=True)
        environment = {
            **self.server.environment(),
            "STEP_PYTHON": str(POD),
            "POD_PYTHON": sys.executable,
            "POD_ARTIFACTS": str(self.folder / "artifacts"),
            "POD_SCRATCH": str(self.folder / "scratch"),
            "PYTHONPATH": str(ROOT),
        }
        job = Job(str(uuid.uuid4()), "", f"wgan-{root}", kubeflow=True)
        artifacts = self.folder / "artifacts"
        return start_compiled(file, artifacts / root, artifacts / cache, job, environment=environment)

    def run(self, url: str, root: str, cache: str = "cache") -> dict[str, Any]:
        """Run the pipeline to its end; return its summary, which is at the URL."""
        code = self.start(url, root, cache).wait(600)
        log = (self.folder / "artifacts" / root / "log").read_text()
        assert code == 0, log
        assert "SUCCEEDED" in set(ended_tasks(self.folder / "artifacts" / root).values()), log
        return self.summary(url, root)

    def summary(self, url: str, root: str) -> dict[str, Any]:
        """Return the summary of a run."""
        return dict(json.loads((self.objects(url) / f"wgan-{root}" / "summary.json").read_bytes()))

    def objects(self, url: str) -> Path:
        """Return the folder in which the server keeps the objects of a URL."""
        return self.server.bucket / url.removeprefix("s3://bucket/")

    def pipeline(self, *words: str) -> str:
        """Run the command line on another machine, which has the URL and a key."""
        return output_of(*words, **self.server.environment())


@pytest.fixture(scope="module")
def cluster(server: S3Server, in_ci: bool, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True, check=False)
    if done.returncode != 0 and not in_ci:
        pytest.skip(f"no mount namespaces here: {done.stderr.decode().strip()}")
    return Cluster(server, tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def first(cluster: Cluster) -> dict[str, Any]:
    return cluster.run("s3://bucket/wgan", "first")


def test_a_run_succeeds_and_is_found_at_the_url(cluster: Cluster, first: dict[str, Any], tmp_path: Path) -> None:
    assert {step: row["status"] for step, row in first["steps"].items()} == dict.fromkeys(STEPS, "succeeded")
    assert first["push"]["decision"] == "published"
    assert "wgan-first  succeeded" in cluster.pipeline("runs", "--runs-dir", "s3://bucket/wgan")
    assert "Report   s3://bucket/wgan/wgan-first/report.html" in cluster.pipeline("report", "--runs-dir", "s3://bucket/wgan")
    shown = json.loads(cluster.pipeline("registry", "show", "--registry", "s3://bucket/wgan/registry"))
    assert shown["version"] == "v0001"
    cluster.pipeline("generate", "s3://bucket/wgan/registry", "--count", "3", "--out", str(tmp_path / "drawn"))
    assert len(list((tmp_path / "drawn").iterdir())) == 4


def test_everything_that_outlives_a_pod_is_in_the_bucket(cluster: Cluster, first: dict[str, Any]) -> None:
    objects = cluster.objects("s3://bucket/wgan")
    patterns = ("journal/train-*.json", "journal/run-*.json", "checkpoints/*/round-00000100/manifest.json")
    patterns += ("checkpoints/*/samples/round-00000100.png", "extractors/*/weights.npz", "real_side/*", "baselines/*")
    for pattern in patterns:
        assert len(list((objects / ".work").glob(pattern))) == 1, pattern
    assert len(list(objects.glob("snapshots/*/accepted/000001.json"))) == 1
    assert len(list(objects.glob(".work/checkpoints/*/round-*"))) == 2, "keep_checkpoints"
    assert not list((cluster.folder / "scratch").iterdir())


def test_an_unchanged_run_is_cached(cluster: Cluster, first: dict[str, Any]) -> None:
    again = cluster.run("s3://bucket/wgan", "again")
    assert again["nothing_new"]
    assert all(row["cached"] for row in again["steps"].values())
    listed = cluster.pipeline("runs", "--runs-dir", "s3://bucket/wgan")
    assert [line.split()[0] for line in listed.splitlines()[1:]] == ["wgan-again", "wgan-first"]
    cluster.pipeline("report", "--compare", "wgan-first", "wgan-again", "--runs-dir", "s3://bucket/wgan")
    assert (cluster.objects("s3://bucket/wgan") / "compare-wgan-first-wgan-again.html").is_file()


def test_a_killed_training_resumes_on_another_machine_bit_for_bit(cluster: Cluster, first: dict[str, Any]) -> None:
    url = "s3://bucket/killed"
    process = cluster.start(url, "killed", "cache-killed")
    work = cluster.objects(url) / ".work"
    wait_for(lambda: process.poll() is not None or bool(list(work.glob("checkpoints/*/round-*/manifest.json"))), 600)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL, (cluster.folder / "artifacts" / "killed" / "log").read_text()
    resumed = cluster.run(url, "resumed", "cache-resumed")
    assert 20 <= resumed["train"]["resumed_from_round"] < 100
    steps = [cluster.folder / "artifacts" / root / "steps" for root in ("first", "resumed")]
    undisturbed, disturbed = (made_in(each)["model"] for each in steps)
    for model in (undisturbed, disturbed):
        del model["saved_model/saved_model.pb"]  # the order of its functions differs from process to process
    assert disturbed == undisturbed
    assert "state.npz" in disturbed
    assert "samples/round-00000040.png" in disturbed
