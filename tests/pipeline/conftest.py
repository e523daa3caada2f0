"""Fixtures for the tests of whole runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import filelock
import pytest

from pipeline.targets.local import docker as docker_target
from tests.support import containers
from tests.support.local_runs import ROOT
from tests.support.two_runs import CONFIG, ENVIRONMENT, Results, results_of


@pytest.fixture(scope="session")
def local_run(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return the results of `wgan-pipeline run` with two_runs.CONFIG, which is run once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "local-run"
    folder.mkdir(exist_ok=True)
    with filelock.FileLock(folder / "lock"):
        if not (folder / "runs" / "latest").exists():
            (folder / "c.toml").write_text(CONFIG)
            command = [sys.executable, "-m", "pipeline", "run", str(folder / "c.toml"), f"--set=run.dir={folder / 'runs'}"]
            done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    return results_of(folder / "runs")


@pytest.fixture(scope="session")
def chromium(in_ci: bool) -> str:
    """The browser; without one the tests are skipped, but fail in CI."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None:
        reason = "Chromium is not installed: apt-get install -y --no-install-recommends chromium"
        pytest.fail(reason) if in_ci else pytest.skip(reason)
    return path


@pytest.fixture(scope="module")
def host(in_ci: bool) -> Iterator[str]:
    """Serve Docker's protocol; return the address, which is also in DOCKER_HOST."""
    if missing := containers.missing():
        reason = f"{', '.join(missing)} missing: apt-get install -y --no-install-recommends podman runc mmdebstrap"
        pytest.fail(reason) if in_ci else pytest.skip(reason)
    with containers.engine() as address:
        os.environ["DOCKER_HOST"] = address
        yield address
        del os.environ["DOCKER_HOST"]


@pytest.fixture(scope="module")
def client(host: str) -> Iterator[Any]:
    """Return a client of the container engine."""
    with docker_target.engine_client() as client:
        yield client


@pytest.fixture(scope="module")
def image(host: str) -> str:
    """Return the image `data`, built from this checkout."""
    return containers.make_data_image()
