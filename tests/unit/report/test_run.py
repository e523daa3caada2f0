"""The exit handler: summary.json and report.html, however the run ended."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.artifacts import MANIFEST, file_entries, now, write_text
from components.common.errors import ArtifactError, TrainingDivergedError
from components.common.journal import STEPS, StepRecord, entry_name
from components.report.run import run as report
from components.report.summary import RunSummary
from tests.support.report_runs import DECISION, HOSTILE, SCORES, Parsed, Run, again

TOP_LEVEL = (
    "run_id status exit_code started_at finished_at seconds error steps"
    " ingest validate tpu_check train evaluate gate push artifacts note nothing_new"
)
SECTIONS = ("samples", "champion", "scores", "neighbours", "training", "data", "lineage", "timings", "configuration")


def page_of(run: Run, status: str = "succeeded", message: str = "") -> tuple[dict[str, Any], Parsed, str]:
    """Write the report of a run; return summary.json, the parsed page and its source."""
    folder = run.root / "report"
    summary = report(run.description, folder=folder, status=status, message=message)
    written = json.loads((folder / "summary.json").read_text())
    assert written == json.loads(summary.model_dump_json())
    html = (folder / "report.html").read_text()
    return written, Parsed(html), html


def sections(page: Parsed) -> list[str]:
    return [str(attributes["id"]) for tag, attributes in page.elements if tag == "section"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that tests only read."""
    return Run(tmp_path_factory.mktemp("finished")).all()


def test_a_run_for_a_tpu_shows_its_tpu_check(tmp_path: Path) -> None:
    run = Run(tmp_path).all()
    keys = {"ingest": "", "validate": "", "tpu_check": "9" * 64} | run.description.keys
    check = {"compiled": True, "topology": "v5e:2x4", "peak_hbm_bytes": 2.6e9, "hbm_bytes": 17.2e9}
    executed = {
        "precision": "float32",
        "rounds": 5,
        "replicas": 8,
        "global_batch_size": 16,
        "differences": [[2e-7, "penalty", 3]],
    }
    check |= {"images_per_second_at_most": 369_032.4, "executed": [executed]}
    record = StepRecord(step="tpu_check", key=keys["tpu_check"], state="succeeded", pid=1, started_at=now(), summary=check)
    write_text(run.work_dir / entry_name("tpu_check", record.key), record.model_dump_json())
    report(run.description.model_copy(update={"keys": keys}), folder=tmp_path, status="succeeded")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["steps"]) == ["ingest", "validate", "tpu_check", "train", "evaluate", "gate", "push"]
    assert summary["tpu_check"] == check
    page = (tmp_path / "report.html").read_text()
    assert "Compiled for v5e:2x4" in page
    assert "2.60 of 17.2 GB of HBM, at most 369,032 images/s" in page
    assert "5 rounds on 8 virtual replicas train as the CPU does (batch 16, metrics within 2e-07)" in page


def test_summary_has_the_names_of_the_design(finished: Run) -> None:
    summary, _, _ = page_of(finished)
    assert list(summary) == TOP_LEVEL.split()
    assert summary["nothing_new"] is False
    assert list(summary["steps"]) == list(STEPS)
    assert all(list(step) == ["status", "seconds", "cached"] for step in summary["steps"].values())
    assert summary["status"] == "succeeded"
    assert summary["exit_code"] == 0
    assert summary["error"] is None
    assert summary["seconds"] > 0
    assert {"read", "kept", "duplicate", "quarantined"} <= summary["ingest"].keys()
    assert summary["ingest"]["read"] == sum(summary["ingest"][name] for name in ("kept", "duplicate", "quarantined"))
    train = {"rounds", "images_seen", "critic_images_per_second", "resumed_from_round", "wasserstein_gap", "penalty"}
    assert train <= summary["train"].keys()
    assert summary["evaluate"] == SCORES
    assert summary["push"] == DECISION
    assert summary["artifacts"].keys() == set(STEPS)
    assert summary["artifacts"]["train"]["path"] == str(finished.out("train"))
    assert len(summary["artifacts"]["train"]["digest"]) == 64


def test_page_shows_everything_in_order(finished: Run) -> None:
    _, page, html = page_of(finished)
    assert sections(page) == list(SECTIONS)
    assert page.unbalanced == []
    assert "Published as v0003" in page.text
    assert DECISION["reason"] in page.text
    for words in (
        "Comparable only with scores of the same provenance",
        "labels 97.3",
        "Round 0",
        "Round 1,000",
        "1,797",
        "10 of 10 classes are covered",
        "Nearest pairs",
        "p = 0.310",
        "The first 64 training images",
        "wgan-pipeline run configs/quickstart.toml --set train.rounds=1000",
        "penalty_weight",
        "2.20.0",
        "Can you tell them apart?",
        "Logarithmic axis: FID, KID.",
    ):
        assert words in page.text, words
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 14  # samples, real, blind test and answer, six rounds, neighbours, two of pairs, the data
    assert all(image["alt"] and image["width"] and image["height"] for image in images)
    charts = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(charts) == 12  # six scores between floor and ceiling, and six curves
    assert all(chart["role"] == "img" and (chart.get("aria-labelledby") or chart.get("aria-label")) for chart in charts)
    headings = [int(tag[1]) for tag, _ in page.elements if tag in {"h1", "h2", "h3", "h4"}]
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    assert "prefers-color-scheme: dark" in html
    assert "<details><summary>Answer</summary>" in html.replace("\n", "")
    assert "FID 12.3: noise scores 310, real images 0.9; the champion has 19.9." in html
    assert html.startswith("<!doctype html>")


def test_page_refers_to_nothing_outside_itself(finished: Run) -> None:
    _, page, html = page_of(finished)
    assert page.urls
    assert all(url.startswith("data:") for url in page.urls)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert len(html) < 300_000  # the digits are small


def test_heavy_images_keep_the_page_under_3_megabytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 128, 128, 3)).astype(np.uint8)
    _, page, html = page_of(Run(tmp_path, noise).all())
    assert sum(tag == "img" for tag, _ in page.elements) == 14
    assert len(html.encode()) < 3_000_000


def test_names_from_the_data_are_escaped(finished: Run) -> None:
    _, page, html = page_of(finished)
    assert HOSTILE not in html
    assert HOSTILE in page.text
    assert "script" not in {tag for tag, _ in page.elements}


def test_names_in_an_error_are_escaped(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.reject()
    _, page, html = page_of(run, "failed", message='"><img src=x onerror=alert(1)>')
    assert HOSTILE not in html
    assert HOSTILE in page.text
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_second_run_comes_from_the_cache(tmp_path: Path) -> None:
    second = again(Run(tmp_path).all())
    second.gate("unchanged", champion="v0003")
    second.push(decision="unchanged", reason="v0003 is already published.", champion="v0003")
    summary, page, _ = page_of(second)
    assert (summary["status"], summary["nothing_new"]) == ("succeeded", True)
    assert "Nothing new: this model is v0003" in page.text
    assert [summary["steps"][step]["status"] for step in STEPS] == ["cached"] * 4 + ["succeeded"] * 2
    assert all(summary["steps"][step]["cached"] for step in STEPS)
    assert [summary["steps"][step]["seconds"] for step in STEPS[:4]] == [0.0] * 4
    assert summary["train"]["rounds"] == 1000
    assert "6 of 6 steps" in page.text
    assert sections(page) == [name for name in SECTIONS if name != "champion"]  # it is the champion itself


@pytest.mark.parametrize(
    ("started", "words"),
    [
        ({"started_from": "v0007"}, "v0007"),
        ({"started_from": "", "why_from_scratch": "v0007 has <8> channels"}, "scratch: v0007 has &lt;8&gt; channels"),
        ({"started_from": "", "why_from_scratch": ""}, ""),
    ],
)
def test_the_page_names_the_start_of_the_training(tmp_path: Path, started: dict[str, str], words: str) -> None:
    run = Run(tmp_path)
    run.ingest()
    run.validate()
    run.train(**started)
    html = page_of(run, "failed")[2]
    assert ("<dt>Started from</dt>" in html) == bool(words)
    assert not words or f"<dt>Started from</dt><dd>{words}</dd>" in html


def test_rejected_data(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.reject()
    summary, page, _ = page_of(run, "failed", "Inner task failed: 'ingest'")
    assert (summary["status"], summary["exit_code"]) == ("failed", 3)
    assert summary["error"]["step"] == "ingest"
    assert summary["error"]["problem"].startswith("9 of 100 images cannot be read")
    assert summary["error"]["cure"].startswith("Repair or remove them")
    assert [summary["steps"][step]["status"] for step in STEPS] == ["failed"] + ["skipped"] * 5
    assert [summary[step] for step in STEPS] == [None] * 6
    assert summary["artifacts"] == {}
    assert sections(page) == ["timings", "configuration"]
    for words in ("ingest failed", "What to do:", "DataRejectedError", "Traceback", "samples, scores, training curves"):
        assert words in page.text, words


def test_a_failed_training_shows_the_curves_of_its_last_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.ingest()
    run.validate()
    run.break_training(TrainingDivergedError("Training broke in round 523: penalty is nan.", "Lower the rates."))
    summary, page, _ = page_of(run, "failed")
    assert summary["error"] == {
        "step": "train",
        "problem": "Training broke in round 523: penalty is nan.",
        "cure": "Lower the rates.",
    }
    assert summary["train"] is None
    assert summary["ingest"]["kept"] == 1797
    assert sections(page) == ["samples", "training", "data", "lineage", "timings", "configuration"]
    assert "its last checkpoint, of round 500" in page.text
    assert "best: 0.2 at round 500" in page.text
    assert sum(tag == "svg" for tag, _ in page.elements) == 7  # KID during training, and six curves


def remove_artifact(folder: Path) -> None:
    shutil.rmtree(folder)


def break_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{}")


def empty_manifest_details(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest |= {"details": {}, "counts": {}, "digest": "0" * 64}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def truncate_files(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and file.name != MANIFEST:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove_files(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and file.name != MANIFEST:
            file.unlink()


DAMAGES = (remove_artifact, break_manifest, empty_manifest_details, truncate_files, remove_files)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("step", STEPS)
def test_a_damaged_artifact_becomes_a_note(finished: Run, tmp_path: Path, step: str, damage: Callable[[Path], None]) -> None:
    folder = finished.out(step)
    shutil.copytree(folder, tmp_path / "whole")
    damage(folder)
    try:
        summary, page, _ = page_of(finished)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
    assert summary["status"] == "succeeded"
    assert summary["evaluate"] == SCORES
    notes = [attributes for tag, attributes in page.elements if tag == "p" and attributes.get("class") == "note"]
    silent = step == "push" and damage in (truncate_files, remove_files)  # only its summary is shown
    assert bool(notes) != silent
    assert "Published as v0003" in page.text
    assert page.unbalanced == []


def test_json_of_another_shape_becomes_a_note(tmp_path: Path) -> None:
    for content in ("[1, 2]", '{"train": 3}', '{"train": {"count": 1}}', "null", "\x00"):
        run = Run(tmp_path / str(len(content)))
        run.ingest()
        run.validate()
        statistics = run.out("validate") / "statistics.json"
        statistics.write_text(content)
        manifest = json.loads((statistics.parent / MANIFEST).read_text())
        manifest["files"] = {name: entry.model_dump() for name, entry in file_entries(statistics.parent).items()}
        (statistics.parent / MANIFEST).write_text(json.dumps(manifest))
        _, page, _ = page_of(run, "failed")
        assert "The statistics cannot be shown" in page.text, content


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write_entry("ingest", "succeeded", run.started_at, summary={"read": 1, "speed": float("nan"), "a": [float("inf")]})
    file = next((run.work_dir / "journal").glob("ingest-*"))
    file.write_text(file.read_text().replace("null", "NaN", 1))
    summary, _, html = page_of(run, "failed")
    assert "NaN" not in (run.root / "report" / "summary.json").read_text()
    assert summary["ingest"]["read"] == 1
    assert html


def test_a_damaged_journal_entry_becomes_a_note(tmp_path: Path) -> None:
    run = Run(tmp_path).all()
    next((run.work_dir / "journal").glob("validate-*")).write_text("{")
    summary, page, _ = page_of(run)
    assert "The journal entry of validate cannot be read" in page.text
    assert summary["steps"]["validate"]["status"] == "skipped"
    assert summary["steps"]["push"]["status"] == "succeeded"


def test_folder_that_cannot_be_written_is_an_artifact_error(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="Cannot write"):
        report(run.description, folder=tmp_path / "file" / "run", status="failed")


def test_the_summary_reads_back_and_files_are_replaced(finished: Run, tmp_path: Path) -> None:
    report(finished.description, folder=tmp_path, status="succeeded")
    summary = report(finished.description, folder=tmp_path, status="succeeded")
    assert RunSummary.model_validate_json((tmp_path / "summary.json").read_text()) == summary
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "summary.json"]


def test_report_imports_no_heavy_library() -> None:
    heavy = "{'tensorflow', 'keras', 'apache_beam', 'sklearn', 'matplotlib', 'kfp'}"
    code = f"import sys, components.report.run; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
