"""Scores and their provenance, alone and beside the champion's; a new row of METRICS appears on every page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.common.artifacts import write_json
from components.evaluate.metrics import table
from components.report.comparison import score_rows, write_comparison
from components.report.run import run as report
from components.report.sections.champion import compared_scores
from components.report.sections.scores import list_scores, provenance_rows, provenance_sentence
from tests.support.report_runs import BETWEEN, CHAMPION_SCORES, SCORES, Run


def test_scores_and_provenance_as_text() -> None:
    scores = {score.name: score for score in list_scores(SCORES)}
    assert (scores["FID"].value, scores["KID"].value, scores["KID"].error) == ("12.346", "0.0123", "0.0011")
    assert scores["Nearer than held-out"].meaning.endswith(" p = 0.310.")
    assert len(scores) == len(table.metrics_on("report"))
    assert list_scores({}) == ()
    provenance = SCORES["provenance"]
    sentence = provenance_sentence(provenance).replace("\N{NO-BREAK SPACE}", " ")
    apart = "which tells held-out images from damaged ones in 93.0 % of cases, and labels 97.3 % of them correctly"
    assert f"{apart} (digest abababababab)" in sentence
    assert "2,000 samples (seed 0, EMA weights) against 1,437 train images" in sentence
    assert ("extractor digest", "abababababab") in provenance_rows(provenance)
    assert provenance_sentence({}) == ""


def test_the_champion_table_has_the_scores_of_both() -> None:
    rows = compared_scores(SCORES, CHAMPION_SCORES)
    assert rows[:2] == (
        ("FID", "12.346", "19.900", "lower is better"),
        ("KID", "0.0123 ± 0.0011", "0.0211 ± 0.0014", "lower is better"),
    )
    assert "Density" not in {name for name, *_ in rows}


def test_a_new_metric_appears_on_every_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(
        table.METRICS[0], name="hue_distance", title="Hue distance", meaning="How far the hues are apart.", decimals=2,
        error="hue_distance_std", shown=frozenset({"report", "scale", "console"}),
    )  # fmt: skip
    monkeypatch.setattr(table, "METRICS", (*table.METRICS, row))
    for scores, value in ((SCORES, 0.25), (CHAMPION_SCORES, 0.5), (BETWEEN["floor"], 0.1), (BETWEEN["ceiling"], 9.0)):
        monkeypatch.setitem(scores, "hue_distance", value)
    monkeypatch.setitem(SCORES, "hue_distance_std", 0.03)
    run = Run(tmp_path).all()
    report(run.description, folder=tmp_path, status="succeeded")
    html = (tmp_path / "report.html").read_text()
    assert "<dt>Hue distance</dt><dd>0.25 ± 0.03</dd>" in html  # below the headline
    assert '<td class="number">0.25 ± 0.03</td><td class="number">0.50</td>' in html  # beside the champion
    assert "How far the hues are apart." in html  # among the scores
    assert "Hue distance 0.25: noise scores 9, real images 0.1; the champion has 0.5." in html  # on the scale
    assert "Logarithmic axis: FID, KID, Hue distance." in html

    write_json(tmp_path / "run.json", run.description.model_dump(mode="json"))
    write_comparison(tmp_path, tmp_path, tmp_path / "comparison.html")
    assert "Hue distance" in (tmp_path / "comparison.html").read_text()
    better = {row.name: row.better for row in score_rows(SCORES, SCORES | {"hue_distance": 0.2}, mark_better=True)}
    assert better["Hue distance"] == "b"
