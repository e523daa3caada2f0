"""The page of a run that goes on, at each moment of its life."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.common.artifacts import now, write_text
from components.common.errors import TrainingDivergedError
from components.common.store import store_at
from components.report.live import Watched
from components.report.run import run as report
from components.train.progress import PROGRESS
from tests.support.report_runs import DECISION, Parsed, Run, parsed

REFRESH = '<meta http-equiv="refresh" content="5">'


def shown(run: Run, state: str = "running") -> tuple[str, Parsed]:
    """Return the page as HTML and parsed; checks that the run's files stay as they were."""
    before = {file: file.read_bytes() for file in run.root.rglob("*") if file.is_file()}
    watched = Watched(run.description, store_at(run.root / "folder"), lambda: state, "report.html")  # type: ignore[arg-type]
    html = watched.page().html().replace('href="report.html"', 'href="data:"')
    page, _ = parsed(html)
    assert {file: file.read_bytes() for file in run.root.rglob("*") if file.is_file()} == before
    return html, page


def title(page: Parsed) -> str:
    return page.text.split(" · run")[0].strip()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run in which train comes next."""
    run = Run(tmp_path)
    run.ingest()
    run.validate()
    return run


def test_a_run_that_begins(tmp_path: Path) -> None:
    html, page = shown(Run(tmp_path))
    assert title(page) == "ingest comes next"
    assert html.count("state waiting") == 6
    assert REFRESH in html


def test_a_training_shows_rounds_time_left_samples_curves_and_scores(run: Run) -> None:
    run.write_entry("train", "running", run.started_at)
    run.progress()
    html, page = shown(run)
    assert title(page) == "Training: 50\N{NO-BREAK SPACE}%"
    assert "Round 500 of 1,000 at 4 rounds/s; about 2 min 5 s left." in page.text
    assert "0.2000 ± 0.0100 (round 500)" in page.text
    assert '<progress value="500" max="1000"' in html
    tags = [tag for tag, _ in page.elements]
    assert (tags.count("img"), tags.count("svg")) == (7, 7)  # newest, real and five earlier samples; KID and six metrics
    assert [word for word in ("Round 0", "Round 500", "best: 0.2 at round 500") if word not in page.text] == []
    assert REFRESH in html


def test_the_progress_of_an_earlier_attempt_is_not_taken_for_that_of_this_one(run: Run) -> None:
    run.progress()
    run.write_entry("train", "running", now())
    html, page = shown(run)
    assert title(page) == "train is running"
    assert "<progress" not in html
    assert "Round 500" in page.text, "its samples are shown"


def test_a_training_before_its_first_host_call_has_no_section(run: Run) -> None:
    run.write_entry("train", "running", now())
    html, page = shown(run)
    assert title(page) == "train is running"
    assert "<section" not in html


def test_damaged_progress_becomes_a_note(run: Run) -> None:
    run.write_entry("train", "running", now())
    (run.progress() / PROGRESS).write_text("{")
    _, page = shown(run)
    assert "The training cannot be shown: 1 validation error for ProgressFile" in page.text


def test_a_killed_run_says_so_and_no_longer_reloads(run: Run) -> None:
    run.write_entry("train", "running", run.started_at)
    run.progress()
    html, page = shown(run, "killed")
    assert title(page) == "train was killed"
    assert "Often the cause is a lack of memory" in page.text
    assert REFRESH not in html


@pytest.mark.parametrize("state", ["running", "running or killed"])
def test_a_failed_step_shows_its_reason_before_the_report_is_written(run: Run, state: str) -> None:
    run.break_training(TrainingDivergedError("penalty is nan in round 7.", "Lower the rates."))
    html, page = shown(run, state)
    assert title(page) == "train failed"
    assert "penalty is nan in round 7." in page.text
    assert "Lower the rates." in page.text
    assert REFRESH in html


def test_the_verdict_of_the_gate_is_shown_while_push_runs(run: Run) -> None:
    run.train()
    run.evaluate()
    run.gate()
    run.write_entry("push", "running", now())
    _, page = shown(run)
    assert title(page) == "push is running"
    assert f"blessed: {DECISION['reason']}" in page.text
    assert "12.346" in page.text, "the FID"


@pytest.mark.parametrize("state", ["killed", "running or killed"])
def test_the_end_shows_the_decision_and_the_report(tmp_path: Path, state: str) -> None:
    run = Run(tmp_path).all()
    report(run.description, folder=run.root / "folder", status="succeeded")
    run.progress(1000)
    html, page = shown(run, state)
    assert title(page) == "Published as v0003"
    assert DECISION["reason"] in page.text
    assert "Open the report" in page.text
    assert "Round 1,000" in page.text
    assert REFRESH not in html
    later = Run(run.root, run.images)  # another run with the same keys, which has begun since
    later.write_entry("gate", "running", now())
    assert title(shown(run, state)[1]) == "Published as v0003"


def test_a_summary_that_was_written_too_early_does_not_end_the_page(run: Run) -> None:
    """`report` writes one for a run that has none."""
    run.write_entry("train", "running", run.started_at)
    report(run.description, folder=run.root / "folder", status="")
    html, page = shown(run)
    assert title(page) == "train is running"
    assert REFRESH in html


def test_a_summary_of_another_version_becomes_a_note(tmp_path: Path) -> None:
    run = Run(tmp_path).all()
    report(run.description, folder=run.root / "folder", status="succeeded")
    write_text(run.root / "folder" / "summary.json", '{"run_id": "7"}')
    _, page = shown(run, "killed")
    assert title(page) == "Published as v0003"
    assert "summary.json cannot be read" in page.text
