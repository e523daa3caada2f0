"""The compiled file itself, not the program that made it, run by KFP's local orchestrator: the same as a local run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_runs import ROOT
from tests.support.two_runs import CONFIG, made_in, without_times

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]


def program(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("compiled") / "c.toml"
    file.write_text(CONFIG)
    return file


@pytest.fixture(scope="module")
def here(config: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summary and artifacts of `wgan-pipeline run`."""
    folder = config.parent / "here"
    program("pipeline", "run", str(config), f"--set=run.dir={folder}")
    run = (folder / "latest").resolve()
    return without_times(json.loads((run / "summary.json").read_bytes()), folder), made_in(run / "steps")


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_it_makes_the_same(config: Path, here: tuple[dict[str, Any], dict[str, Any]], target: str) -> None:
    folder, file = config.parent / target, config.parent / f"{target}.yaml"
    program("pipeline", "compile", str(config), "--target", target, "-o", str(file), f"--set=run.dir={folder}")
    program("tests.support.run_compiled", str(file), str(folder / "root"))
    (summary,) = (folder / "root" / "steps").glob("*/report/summary.json")
    assert made_in(folder / "root" / "steps") == here[1]
    assert without_times(json.loads(summary.read_bytes()), folder) == here[0]
