"""The report's smaller parts: words, figures, bars, the graph, the verdict, the opened artifact."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.common.artifacts import now
from components.common.errors import ArtifactError
from components.common.images import grid, png_bytes
from components.common.journal import ArtifactRef, StepRecord
from components.report import formatting
from components.report.artifact_reader import Opened, open_unfinished_training
from components.report.outcomes import Failure, Outcome
from components.report.plots.bars import MAX_BARS, to_bars
from components.report.plots.figures import MAX_IMAGE_BYTES, figure, png_size
from components.report.sections.data_in import count_rows, label_bars
from components.report.sections.lineage import Made, draw_graph
from components.report.sections.scores import list_scores, provenance_rows, provenance_sentence
from components.report.sections.training import pick_rounds
from components.report.sections.verdict import reach_verdict
from tests.support.report_runs import CONFIGS, SCORES, Run, digits


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1797, "1,797"), (3.0, "3"), (0.012346, "0.01235"), (123456.7, "123,457"), (None, "—"), (True, "—")],
)
def test_number(value: float | None, text: str) -> None:
    assert formatting.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.42, "0.42 s"), (12.34, "12.3 s"), (59.97, "1 min 0 s"), (250, "4 min 10 s"), (11100, "3 h 5 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


def test_moment_size_plain_percent() -> None:
    assert formatting.moment("2026-01-31T12:05:00.123+02:00") == "2026-01-31 10:05:00 UTC"
    assert formatting.moment("yesterday") == "yesterday"
    assert [formatting.size(count) for count in (12, 1234, 123_456, 12_345_678)] == ["12 B", "1.2 KB", "123 KB", "12.3 MB"]
    assert [formatting.plain(value) for value in ("a", 0.5, [1, "é"], None)] == ["a", "0.5", '[1, "é"]', "null"]
    assert formatting.percent(1, 8) == "12.5\N{NO-BREAK SPACE}%"
    assert formatting.percent(0, 0) == "0\N{NO-BREAK SPACE}%"


def test_small_png_goes_in_unchanged() -> None:
    png = png_bytes(grid(digits()[:64], 8))
    shown = figure(png, "alt", "caption")
    assert shown.src.startswith("data:image/png;base64,")
    assert base64.b64decode(shown.src.partition(",")[2]) == png
    assert (shown.width, shown.height, shown.pixelated) == (73, 73, True)


def test_large_png_is_made_smaller() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1000, 3)).astype(np.uint8)
    shown = figure(png_bytes(noise), "alt", "caption")
    jpeg = base64.b64decode(shown.src.removeprefix("data:image/jpeg;base64,"))
    assert len(jpeg) <= MAX_IMAGE_BYTES
    assert Image.open(io.BytesIO(jpeg)).size == (shown.width, shown.height)
    assert shown.height / shown.width == pytest.approx(1.5, rel=0.01)
    assert shown.height <= 1024


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_png_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no PNG image"):
        png_size(content)


def test_bars_are_relative_to_the_longest_and_limited() -> None:
    shown = to_bars([("a", 10), ("b", 5), ("c", 0)], formatting.number)
    assert [(bar.name, bar.length, bar.text) for bar in shown.bars] == [("a", 100, "10"), ("b", 50, "5"), ("c", 0, "0")]
    many = to_bars([(str(index), index) for index in range(1000)], formatting.number)
    assert (len(many.bars), many.left_out, many.bars[0].name) == (MAX_BARS, 1000 - MAX_BARS, "999")
    assert to_bars([("a", 0)], formatting.number).bars[0].length == 0


def test_labels_are_counted_over_all_splits() -> None:
    histogram = {"train": {"shirt": 3, "shoe": 2, "unlabelled": 1}, "eval": {"shoe": 2, "hat": 1}}
    bars = label_bars({"label_histogram": histogram}).bars
    assert [(bar.name, bar.text) for bar in bars] == [("shirt", "3"), ("shoe", "4"), ("unlabelled", "1"), ("hat", "1")]
    assert label_bars({"label_histogram": {"train": {"unlabelled": 5}, "eval": {}}}).bars == ()
    assert label_bars({}).bars == ()


def test_counts_keep_their_order() -> None:
    rows = count_rows({"eval": 2, "kept": 8, "read": 10, "duplicate": 1, "quarantined": 1, "other": 3})
    assert [row[0] for row in rows] == ["read", "kept", "duplicate", "quarantined", "eval"]
    assert count_rows({}) == ()


@pytest.mark.parametrize("count", range(1, 14))
def test_rounds_are_picked_evenly_with_first_and_last(count: int) -> None:
    names = [f"samples/round-{at:08d}.png" for at in range(count)]
    picked = pick_rounds(names)
    assert len(picked) == len(set(picked)) == min(6, count)
    assert (picked[0], picked[-1]) == (names[0], names[-1])
    assert picked == sorted(picked)


def test_scores_and_provenance_in_words() -> None:
    scores = {score.name: score for score in list_scores(SCORES)}
    assert (scores["FID"].value, scores["KID"].value, scores["KID"].error) == ("12.3", "0.0123", "0.0011")
    assert len(scores) == 12
    assert list_scores({}) == ()
    provenance = SCORES["provenance"]
    assert isinstance(provenance, dict)
    sentence = provenance_sentence(provenance).replace("\N{NO-BREAK SPACE}", " ")
    assert "a classifier trained on the labels, right on 97.3 % of held-out images (digest abababababab)" in sentence
    assert "2,000 samples (seed 0, EMA weights) against 1,437 train images" in sentence
    assert ("extractor digest", "abababababab") in provenance_rows(provenance)
    assert provenance_sentence({}) == ""


def made(step: str, digest: str, *inputs: str) -> Made:
    return Made(step, step, f"/runs/{step}", digest * 64, tuple((name, name * 12) for name in inputs), "", "")


def test_graph_joins_what_was_made_from_what() -> None:
    graph = draw_graph((made("a", "a"), made("b", "b", "a"), made("c", "c", "a", "b"), made("d", "d", "x")))
    assert graph is not None
    assert len(graph.arrows) == 3
    assert [arrow for arrow in graph.arrows if "C" in arrow] == [graph.arrows[-1]]  # only a to c passes over a box
    assert "The c was made from the a" in graph.description
    assert draw_graph(()) is None


@pytest.mark.parametrize(
    ("decision", "tone", "title"),
    [
        ({"decision": "published", "version": "v0007", "champion": "v0006"}, "good", "Published as v0007"),
        ({"decision": "kept", "champion": "v0006"}, "warn", "Not published: v0006 stays in service"),
        ({"decision": "kept", "champion": ""}, "warn", "Not published: nothing is in service"),
        (
            {"decision": "unchanged", "version": "v0007", "champion": "v0007"},
            "neutral",
            "Unchanged: v0007 is this model and in service",
        ),
        ({"decision": "unchanged", "champion": "v0008"}, "neutral", "Unchanged: v0008 stays in service"),
        ({"decision": "postponed"}, "warn", "Decision: postponed"),
        ({}, "warn", "Decision: none recorded"),
    ],
)
def test_verdict_of_a_decision(decision: dict[str, str], tone: str, title: str) -> None:
    summary = {**decision, "reason": "Because."}
    record = StepRecord(step="push", key="k", state="succeeded", pid=1, started_at=now(), summary=summary)
    verdict = reach_verdict("succeeded", (Outcome("push", "succeeded", record=record),), None)
    assert (verdict.tone, verdict.title, verdict.reason) == (tone, title, "Because.")


@pytest.mark.parametrize(
    ("status", "run_status", "tone", "title"),
    [
        ("failed", "failed", "bad", "train failed"),
        ("killed", "failed", "bad", "train was killed"),
        ("interrupted", "interrupted", "warn", "train was interrupted"),
    ],
)
def test_verdict_of_a_failure(status: str, run_status: str, tone: str, title: str) -> None:
    outcomes = (Outcome("ingest", "succeeded"), Outcome("train", status))
    verdict = reach_verdict(run_status, outcomes, Failure("train", "Problem.", "Cure."))
    assert (verdict.tone, verdict.title, verdict.reason, verdict.cure) == (tone, title, "Problem.", "Cure.")
    assert reach_verdict("failed", outcomes, Failure(None, "P", "C")).title == "The run failed"


def test_opened_dataset_reads_only_what_it_shows(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.ingest()
    shard = run.out("ingest") / "train-00000-of-00001.tfrecord"
    reference = ArtifactRef(path=str(run.out("ingest")), digest="0" * 64)
    opened = Opened("dataset", "dataset", reference)
    assert "is not the one that was written in this run" in opened.notes[0]
    with shard.open("r+b") as stream:
        stream.truncate(64 * 200)  # of 1,437 records only the first survive
    assert np.array_equal(opened.images("train", 16), digits()[:16])


def test_changed_file_is_told_apart(tmp_path: Path) -> None:
    run = Run(tmp_path).all()
    image = run.out("evaluate") / "samples.png"
    content = bytearray(image.read_bytes())
    content[-20] ^= 1
    image.write_bytes(content)
    evaluation = Opened("evaluation", "evaluation", ArtifactRef(path=str(image.parent), digest="0" * 64))
    with pytest.raises(ArtifactError, match=r"samples\.png is damaged"):
        evaluation.content("samples.png")
    assert evaluation.content("neighbours.png")
    with pytest.raises(ArtifactError, match=r"there is no \.\./secret in"):
        evaluation.content("../secret")


def test_unfinished_training_is_found_by_its_configuration(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.ingest()
    run.validate()
    run.break_training(RuntimeError("gone"))
    found = open_unfinished_training(run.work_dir, run.description.config["train"])
    assert found.path.name == "round-00000500"
    assert len(found.lines("metrics.jsonl")) == 10
    assert "samples/real.png" in found.names("samples/", ".png")
    other = CONFIGS["train"].model_copy(update={"seed": 1}).model_dump(mode="json")
    assert open_unfinished_training(run.work_dir, other).manifest is None
    assert open_unfinished_training(tmp_path / "nowhere", other).manifest is None
