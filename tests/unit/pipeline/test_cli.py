"""The command line as a process: what it prints, its exit codes, and what it does not import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import run_process
from tests.support.local_runs import ROOT

BAD = [
    (["run", "--set", "train.round=3"], 2, "did you mean rounds?"),
    (["run", "--set", "ingest.image_size=30"], 2, "input should be 8, 16, 28, 32, 64 or 128"),
    (["run", "--images", "/nowhere/at/all"], 2, "/nowhere/at/all is not a folder"),
    (["run", "--images", "docs", "--set", "ingest.source=digits"], 2, "--images and ingest.source both name the images."),
    (["run", "configs/quickstart.toml", "--images", "docs"], 2, "--images chooses the configuration"),
    (["run", "--images", "docs/decisions"], 3, "cannot be read as images: 0001"),
    (["run", "--set", "train.devices=tpu"], 1, 'train.devices = "tpu", but there is no TPU on this machine'),
    (["run", "nowhere.toml"], 2, "There is no config file nowhere.toml."),
    (["run", "--set", "ingest.source=images:/nowhere/at/all"], 2, "/nowhere/at/all"),
    (["run", "--set", "run.dir=/proc/runs"], 2, "/proc/runs cannot be written"),
    (["run", "--set", "run.dir=/tmp/my-python3-runs"], 2, "contains python3, which KFP's local runner garbles"),
    (["generate", "/nowhere/model", "--out", "/tmp/never-written"], 1, "/nowhere/model"),
    (["report", "20000101-000000"], 2, "There is no run in runs/20000101-000000."),
    (["compile", "configs/quickstart.toml", "--target", "airflow", "-o", "x.yaml"], 2, "Use kubeflow or vertex."),
    (["compile", "configs/quickstart.toml", "--target", "vertex", "-o", "x.yaml"], 2, "and Vertex AI mounts nothing else. Use"),
]


@pytest.mark.parametrize(
    ("words", "code", "sentence"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_with_its_exit_code(words: list[str], code: int, sentence: str, tmp_path: Path) -> None:
    if words[0] == "run" and not any("run.dir" in word for word in words):
        words = [*words, "--set", f"run.dir={tmp_path / 'runs'}"]
    done = run_process(*words)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs" / "latest").exists()


def test_a_run_folder_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_process("run", "--set", f"run.dir={tmp_path / 'file' / 'runs'}")
    assert done.returncode == 2
    assert "cannot be written: Not a directory. Set run.dir to a writable folder." in done.stderr


def test_an_unknown_command_is_bad_usage() -> None:
    done = run_process("rnu")
    assert done.returncode == 2
    assert "Did you mean 'run'?" in done.stderr


def test_dry_run_prints_config_and_plan_and_writes_nothing(tmp_path: Path) -> None:
    done = run_process("run", "--dry-run", "--set", "train.rounds=7", "--set", f"run.dir={tmp_path / 'runs'}", cwd=tmp_path)
    assert done.returncode == 0
    text, _, plan = done.stdout.partition("\nPlan")
    assert json.loads(text)["train"]["rounds"] == 7
    assert [line.split()[0] for line in plan.splitlines()[1:]] == [
        "ingest",
        "validate",
        "train",
        "evaluate",
        "gate",
        "push",
        "report",
    ]
    assert list(tmp_path.iterdir()) == []


def test_runs_in_an_empty_folder(tmp_path: Path) -> None:
    assert "No runs in" in run_process("runs", "--runs-dir", str(tmp_path)).stdout


def test_doctor_passes_on_this_machine() -> None:
    done = run_process("doctor")
    assert done.returncode == 0, done.stdout
    assert "This machine can run the pipeline." in done.stdout
    assert "tensorflow 2.20.0" in done.stdout


@pytest.mark.parametrize("words", [["--help"], ["tpu-check", "--help"], ["run", "--dry-run"]])
def test_no_heavy_import_for_light_work(words: list[str]) -> None:
    script = (
        f"import sys; sys.argv = ['wgan-pipeline', *{words!r}]\nfrom pipeline.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'tensorflow', 'keras', 'apache_beam', 'kfp', 'sklearn', 'matplotlib', 'scipy', 'jax'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
