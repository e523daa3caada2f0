"""A compiled file, run by KFP's local orchestrator without our program, produces the same artifacts as a local run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_runs import ROOT
from tests.support.servers.run_compiled import Job
from tests.support.two_runs import CONFIG, ENVIRONMENT, Results, made_in, without_times

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]


def run_program(*words: str) -> None:
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("compiled") / "c.toml"
    file.write_text(CONFIG)
    return file


# For Vertex AI, compiled with other settings: its run has those of the local run through its parameters.
OTHERS = ["train.rounds=10", "train.seed=3", "evaluate.samples=200", "evaluate.kid_subset_size=50"]
PARAMETERS = {"rounds": 40, "seed": 0, "overrides": ["evaluate.samples=300", "evaluate.kid_subset_size=100"]}


@pytest.mark.parametrize(("target", "settings", "parameters"), [("kubeflow", [], {}), ("vertex", OTHERS, PARAMETERS)])
def test_it_produces_the_same_artifacts(
    config: Path, local_run: Results, target: str, settings: list[str], parameters: dict[str, Any]
) -> None:
    folder, file = config.parent / target, config.parent / f"{target}.yaml"
    where = {"kubeflow": [f"run.dir={folder}", "deploy.volume_claim=wgan"], "vertex": ["run.dir=/gcs/bucket"]}[target]
    sets = [f"--set={setting}" for setting in [*where, *settings]]
    run_program("pipeline", "compile", str(config), "--target", target, "-o", str(file), *sets)
    job = json.dumps(Job("id-1", "run-1", "projects/1/pipelineJobs/run-1", kubeflow=target == "kubeflow"))
    words = [str(file), str(folder / "root"), json.dumps(parameters), str(folder / "cache"), job]
    run_program("tests.support.servers.run_compiled", *words)
    runs = folder / "gcs" / "bucket" if target == "vertex" else folder
    summary = runs / "run-1" / "summary.json"
    assert made_in(folder / "root" / "steps") == local_run.artifacts
    assert without_times(json.loads(summary.read_bytes()), runs) == local_run.summary
