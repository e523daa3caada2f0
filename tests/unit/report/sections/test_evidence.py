"""What lets a reader trust a model: the blind test, a score's place between floor and ceiling, the champion beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.images import cells, grid
from components.report.plots.curves import SCORE_PLOTS, draw_charts, mark_best
from components.report.plots.scale import list_scales, share_of_way
from components.report.run import run as report
from components.report.sections.blind import FRAME, REAL, SAMPLE, framed, shuffled
from components.report.sections.champion import compared
from tests.support.report_runs import BETWEEN, CHAMPION_SCORES, SCORES, Run


@given(st.integers(1, 30), st.sampled_from([1, 3]), st.integers(1, 4), st.integers(1, 9))
def test_cells_are_what_the_grid_was_made_of(count: int, channels: int, scale: int, columns: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 5, 5, channels)).astype(np.uint8)
    found = cells(grid(images, columns, scale), 5, columns, scale)
    np.testing.assert_array_equal(found[:count], images)
    assert (found[count:] == 255).all()


def test_what_is_no_grid_has_no_cells() -> None:
    with pytest.raises(ValueError, match=r"\[9, 10, 1\] is not a grid of 1 columns of 8×8 pixels × 1"):
        cells(np.zeros((9, 10, 1), np.uint8), 8, 1, 1)


def test_blind_test_shows_every_image_once_and_its_answer_is_right() -> None:
    real, samples = np.zeros((16, 4, 4, 1), np.uint8), np.full((16, 4, 4, 1), 200, np.uint8)
    images, is_real = shuffled(real, samples, "run-1")
    assert is_real.sum() == 16
    assert (images[is_real] == 0).all()
    assert (images[~is_real] == 200).all()
    again, _ = shuffled(real, samples, "run-1")
    other, _ = shuffled(real, samples, "run-2")
    np.testing.assert_array_equal(images, again)
    assert (images != other).any()
    assert 0 < is_real[:16].sum() < 16  # not simply one kind after the other
    answer = framed(images, is_real, 2)
    corner = answer[1, 1 :: 8 + 2 * FRAME + 1][:8]
    np.testing.assert_array_equal(corner, np.where(is_real[:8, None], REAL, SAMPLE))


def test_a_score_lies_between_its_ends() -> None:
    assert share_of_way(1.0, floor=1.0, ceiling=300.0, straight=False) == 100
    assert share_of_way(300.0, floor=1.0, ceiling=300.0, straight=False) == 0
    assert share_of_way(0.25, floor=1.0, ceiling=0.0, straight=True) == pytest.approx(25)
    assert share_of_way(-1.0, floor=1.0, ceiling=0.0, straight=True) == 0
    assert share_of_way(2.0, floor=1.0, ceiling=0.0, straight=True) == 100
    assert share_of_way(0.1, floor=0.0, ceiling=2.0, straight=False) > share_of_way(0.2, floor=0.0, ceiling=2.0, straight=False)
    assert share_of_way(5.0, floor=2.0, ceiling=2.0, straight=False) == 100


def test_scales_need_both_ends_and_mark_the_champion() -> None:
    assert list_scales(SCORES) == ()
    assert [scale.name for scale in list_scales(SCORES | BETWEEN)] == [
        "FID",
        "KID",
        "Precision",
        "Recall",
        "Density",
        "Coverage",
    ]
    fid, kid, *_ = list_scales(SCORES | BETWEEN, CHAMPION_SCORES)
    assert fid.champion is not None
    assert fid.champion < fid.place < 100  # further right is better
    assert kid.interval is not None
    assert kid.interval[0] < kid.place < kid.interval[1]
    assert "12.3, between 310 of something useless and 0.9 of real images; the champion has 19.9" in fid.description


def test_champion_table_has_what_both_have() -> None:
    rows = compared(SCORES, CHAMPION_SCORES)
    assert rows[:2] == (
        ("FID", "12.3", "19.9", "lower is better"),
        ("KID", "0.0123 ± 0.0011", "0.0211 ± 0.0014", "lower is better"),
    )
    assert "Density" not in {name for name, *_ in rows}


def test_best_round_is_marked_and_said_to_be_the_model() -> None:
    lines = [{"round": at, "kid": kid} for at, kid in ((100, 0.3), (200, 0.1), (300, 0.2))]
    (chart,) = draw_charts(lines, 0, SCORE_PLOTS)
    marked = mark_best(chart, lines, "kid", 200)
    assert marked.best is not None
    assert marked.best[2] == "best, 0.1 at round 200: this is the model"
    assert mark_best(chart, lines, "kid", 300).best == (*marked.best[:2], "best, 0.1 at round 200")
    assert f"L{marked.best[0]:g} {marked.best[1]:g}" in chart.path


def test_another_run_lies_on_the_same_axes() -> None:
    ours = [{"round": at, "kid": 1.0} for at in (1, 2, 3)]
    theirs = [{"round": at, "kid": 3.0} for at in (1, 2, 3, 4, 5)]
    (chart,) = draw_charts(ours, 0, SCORE_PLOTS, theirs)
    (alone,) = draw_charts(ours, 0, SCORE_PLOTS)
    assert alone.other == ""
    assert chart.other.count("L") == 4
    assert chart.path != alone.path


def test_page_tells_of_the_champion_and_hides_the_answer(tmp_path: Path) -> None:
    run = Run(tmp_path).all()
    report(run.description, folder=tmp_path, status="succeeded")
    html = (tmp_path / "report.html").read_text()
    assert html.index('id="champion"') < html.index('id="scores"')
    assert "Can you tell them apart?" in html
    assert "<details><summary>Answer</summary>" in html.replace("\n", "")
    assert "between 310 of something useless and 0.9 of real images" in html
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "succeeded"
