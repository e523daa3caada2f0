"""`wgan-pipeline runs`: the state of each run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands.runs import runs
from pipeline.targets.local import process
from tests.support.command_line import run
from tests.support.report_runs import Run

SUMMARY = {
    "run_id": "20260102-000000", "status": "succeeded", "seconds": 61.25, "train": {"rounds": 300},
    "evaluate": {"fid": 1.25, "kid": 0.0125}, "push": {"decision": "kept"},
}  # fmt: skip


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    return folder


def test_a_run_whose_process_is_gone_was_killed(tmp_path: Path) -> None:
    program = f"import pathlib; from pipeline.targets.local import process; process.mark(pathlib.Path({str(tmp_path)!r}))"
    program += "; print('marked', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        assert child.stdout.readline() == b"marked\n"
        assert process.state(tmp_path) == "running"
        child.kill()
        child.wait()
    assert process.state(tmp_path) == "killed"


def test_a_reused_process_id_is_not_the_run(tmp_path: Path) -> None:
    process.mark(tmp_path)
    assert process.state(tmp_path) == "running"
    marked = json.loads((tmp_path / "process.json").read_bytes())
    (tmp_path / "process.json").write_text(json.dumps(marked | {"started": "1"}))
    assert process.state(tmp_path) == "killed"


def test_the_report_of_a_run_is_written_when_it_was_killed_and_not_while_it_goes_on(tmp_path: Path) -> None:
    made, folder = Run(tmp_path / "made"), tmp_path / "runs" / "r"
    made.ingest()
    made.write_entry("validate", "running", made.started_at)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(made.description.model_dump_json())
    process.mark(folder)
    words = ("report", "r", "--runs-dir", str(folder.parent))
    watch = f"Watch it: wgan-pipeline watch r --runs-dir {folder.parent}"
    assert run(*words) == (0, f"Run r is still running. {watch}\n")
    assert {file.name for file in folder.iterdir()} == {"run.json", "process.json"}
    marked = json.loads((folder / "process.json").read_bytes())
    (folder / "process.json").write_text(json.dumps(marked | {"started": "1"}))
    code, output = run(*words)
    assert code == 0
    assert output.startswith("\nfailed in validate: validate ended without a result after")
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize("content", [None, "{", "{}", '{"pid": 1, "started": "", "host": "elsewhere"}'])
def test_an_unknown_state_is_reported_as_unknown(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "process.json").write_text(content)
    assert process.state(tmp_path) == "running or killed"


def test_runs_are_listed_newest_first_with_scores_and_decisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "20260101-000000")
    done = make_run(tmp_path / "20260102-000000")
    (done / "summary.json").write_text(json.dumps(SUMMARY))
    process.mark(make_run(tmp_path / "20260103-000000"))
    (make_run(tmp_path / "20260104-000000") / "summary.json").write_text("{")
    (tmp_path / "latest").symlink_to("20260102-000000")
    runs(str(tmp_path))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["run", "status", "rounds", "FID", "KID", "Coverage", "decision", "seconds"],
        ["20260104-000000", "damaged"],
        ["20260103-000000", "running"],
        ["20260102-000000", "succeeded", "300", "1.250", "0.0125", "kept", "61.2"],
        ["20260101-000000", "running", "or", "killed"],
    ]
