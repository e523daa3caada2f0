"""Two runs side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.common.artifacts import write_json, write_text
from components.common.errors import ConfigError
from components.report.comparison import Comparison, FinishedRun, config_rows, score_rows, write_comparison
from components.report.run import run as report
from pipeline.cli import app
from tests.support.report_runs import SCORES, Parsed, Run


def finish(folder: Path, run: Run) -> Path:
    """Write the files that the local runner leaves of a finished run."""
    report(run.description, folder=folder, status="succeeded")
    write_json(folder / "run.json", run.description.model_dump(mode="json"))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of a run that succeeded and of one whose data was rejected."""
    broken = Run(tmp_path / "b")
    broken.reject()
    return finish(tmp_path / "runs" / "first", Run(tmp_path / "a").all()), finish(tmp_path / "runs" / "second", broken)


def test_a_run_compared_with_itself_has_no_differences(two: tuple[Path, Path], tmp_path: Path) -> None:
    write_comparison(two[0], two[0], tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    page = Parsed(html)
    assert not page.unbalanced
    assert "Measured in the same way" in page.text
    assert "The same dataset, byte for byte." in page.text
    assert "All keys have the same value." in page.text
    assert 'class="better"' not in html
    assert sum(tag == "img" for tag, _ in page.elements) == 2
    assert all(url.startswith("data:") for url in page.urls)


def test_a_failed_run_is_compared_with_a_successful_one(two: tuple[Path, Path]) -> None:
    page = Comparison(FinishedRun(two[0]), FinishedRun(two[1]))
    assert (page.a.status, page.b.status) == ("succeeded", "failed")
    assert page.b.reason.startswith("9 of 100 images cannot be read")
    assert (page.b.samples, page.same_data, page.charts) == (None, None, ())
    assert [(row.name, row.b) for row in page.scores][:2] == [("FID", "—"), ("KID", "—")]
    assert {row.better for row in page.scores} == {""}
    assert {row.name: row.b for row in page.times}["train"] == "skipped"


def test_the_better_score_is_marked_where_it_is_known() -> None:
    worse = SCORES | {"fid": 20.0, "precision": 0.9, "sharpness_ratio": 1.3, "class_score": 9.1}
    assert {row.name: row.better for row in score_rows(SCORES, worse, mark_better=True)} == {
        "FID": "a", "KID": "", "Precision": "b", "Recall": "", "Density": "", "Coverage": "", "Memorization": "",
        "Nearer than held-out": "", "Class score": "b", "Classes reached": "", "Class imbalance": "", "Sharpness": "a",
        "Colours": "",
    }  # fmt: skip
    assert {row.better for row in score_rows(SCORES, worse, mark_better=False)} == {""}


def test_scores_of_different_provenance_are_not_compared(two: tuple[Path, Path], tmp_path: Path) -> None:
    other = json.loads((two[0] / "summary.json").read_text())
    other["evaluate"]["provenance"]["seed"] = 7
    other["evaluate"]["fid"] = 1.0
    write_json(two[1] / "summary.json", other)
    write_comparison(two[0], two[1], tmp_path / "page.html")
    text = Parsed((tmp_path / "page.html").read_text()).text
    assert "Not comparable, because the scores were not measured in the same way. These differ: seed." in text
    assert "Measured in the same way" not in text


def test_keys_that_differ_are_listed() -> None:
    a, b = {"train": {"rounds": 10, "seed": 0, "net": {"width": 2}}}, {"train": {"rounds": 20, "seed": 0}, "x": True}
    assert [(row.name, row.a, row.b) for row in config_rows(a, b)] == [
        ("train.net.width", "2", "—"),
        ("train.rounds", "10", "20"),
        ("x", "—", "true"),
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "run.json").unlink(), "There is no run in"),
        (lambda folder: (folder / "summary.json").unlink(), "There is no finished run in"),
        (lambda folder: write_text(folder / "summary.json", "{}"), "was written by another version"),
    ],
)  # fmt: skip
def test_a_folder_without_a_finished_run_is_refused(
    two: tuple[Path, Path], tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(two[1])
    with pytest.raises(ConfigError, match=message):
        write_comparison(two[0], two[1], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_command_writes_the_page_and_prints_its_path(two: tuple[Path, Path]) -> None:
    runs = two[0].parent
    done = CliRunner().invoke(app, ["report", "--compare", "first", "second", "--runs-dir", str(runs)])
    assert done.exit_code == 0, done.output
    assert (runs / "compare-first-second.html").is_file()
    assert str(runs / "compare-first-second.html") in done.output.replace("\n", "")
