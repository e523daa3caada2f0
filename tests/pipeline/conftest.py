"""Fixtures for the tests of whole runs."""

from __future__ import annotations

import os
import subprocess
import sys

import filelock
import pytest

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
