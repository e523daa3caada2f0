"""Training curves: the positions of lines and ticks."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.report.plots.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TICKS, TOP, WIDTH, Chart, nice_ticks
from components.report.plots.curves import (
    KID_PLOT,
    MAX_POINTS,
    PLOTS,
    draw_curves,
    mark_best,
    svg_path,
    thinned,
    visible_range,
)

Line = dict[str, float | int | None]


def line(at: int, **values: float | None) -> Line:
    return {"round": at, "images_seen": at * 10, **values}


def draw(*lines: Line, resumed: int = 0) -> tuple[Chart, ...]:
    return draw_curves(PLOTS, lines, resumed_from_round=resumed)


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def test_curve_runs_from_first_to_last_round_and_low_is_below_high() -> None:
    (chart,) = draw(line(50, penalty=3.0), line(100, penalty=2.0), line(150, penalty=1.0))
    drawn = points(chart.path)
    assert [x for x, _ in drawn] == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    assert drawn[0][1] < drawn[1][1] < drawn[2][1]  # SVG counts y downwards
    assert all(TOP <= y <= HEIGHT - BOTTOM for _, y in drawn)
    assert (chart.title, chart.last) == ("Gradient penalty", 1.0)
    assert "beyond the axis" not in chart.caption
    assert chart.description == "Gradient penalty from 3 at round 50 to 1 at round 150."


def test_every_column_has_a_chart_and_empty_columns_none() -> None:
    names = ("critic_loss", "wasserstein_gap", "penalty", "critic_grad_norm", "generator_loss", "generator_grad_norm")
    assert len(draw(line(1, **dict.fromkeys(names, 1.0)), line(2, **dict.fromkeys(names, 2.0)))) == len(names)
    assert draw(line(1, penalty=math.nan), line(2, penalty=None)) == ()
    assert draw() == ()


@pytest.mark.parametrize("broken", [math.nan, math.inf, None])
def test_value_that_is_not_finite_breaks_the_line(broken: float | None) -> None:
    (chart,) = draw(*(line(at, penalty=broken if at == 3 else float(at)) for at in range(1, 6)))
    assert chart.path.count("M") == 2
    assert len(points(chart.path)) == 4


def test_single_and_constant_values_are_drawn() -> None:
    (chart,) = draw(line(50, penalty=0.0))
    assert chart.path == f"M{(LEFT + WIDTH - RIGHT) / 2 - 4:g} {(TOP + HEIGHT - BOTTOM) / 2:g}h8"
    (chart,) = draw(line(1, penalty=5.0), line(2, penalty=5.0))
    assert {y for _, y in points(chart.path)} == {round(TOP + (HEIGHT - TOP - BOTTOM) / 2, 1)}


def test_resumption_is_marked_only_inside() -> None:
    metrics = [line(at, penalty=1.0) for at in (0, 100, 200)]
    assert draw(*metrics, resumed=100)[0].resumed == (LEFT + WIDTH - RIGHT) / 2
    assert draw(*metrics, resumed=0)[0].resumed is None
    assert draw(*metrics, resumed=200)[0].resumed is None


def test_one_early_spike_does_not_flatten_the_rest() -> None:
    values = [1000.0] + [1.0 + 0.01 * index for index in range(60)]
    low, high = visible_range(np.array(values))
    assert low < 1.0
    assert high < 10
    (chart,) = draw(*(line(at, penalty=value) for at, value in enumerate(values)))
    assert chart.caption.endswith(" 1 point beyond the axis.")
    assert visible_range(np.array([0.0, 1.0, 2.0])) == pytest.approx((-0.1, 2.1))


def test_zero_line_is_drawn_only_inside() -> None:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    assert draw(line(1, critic_loss=-1.0), line(2, critic_loss=1.0))[0].zero == pytest.approx(middle)
    assert draw(line(1, critic_loss=5.0), line(2, critic_loss=6.0))[0].zero is None


def test_long_trainings_are_thinned_to_means() -> None:
    rounds = np.arange(10_000.0)
    thin_rounds, means = thinned(rounds, rounds % 2)
    assert len(thin_rounds) <= MAX_POINTS
    assert set(means) <= {0.48, 0.52, 0.5}
    assert thin_rounds[-1] == 9999.0
    np.testing.assert_array_equal(thinned(np.array([1.0, 2.0]), np.array([5.0, math.nan])), [[1.0, 2.0], [5.0, math.nan]])


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_even_round_and_inside(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    steps = [after - before for before, after in pairwise(ticks)]
    assert len(ticks) <= TICKS + 1
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    assert all(step == pytest.approx(steps[0], rel=1e-3) for step in steps)


def test_svg_path_of_points() -> None:
    assert svg_path(np.array([1.0, 3.0, 5.0, 6.0]), np.array([2.0, 4.0, math.nan, 7.5])) == "M1 2h0L3 4M6 7.5h0"


def test_the_best_round_is_marked_and_said_to_be_the_model() -> None:
    lines = [{"round": at, "kid": kid} for at, kid in ((100, 0.3), (200, 0.1), (300, 0.2))]
    (chart,) = draw_curves([KID_PLOT], lines)
    assert (chart.title, chart.last) == ("KID during training", 0.2)
    marked = mark_best(chart, lines, "kid", 200)
    assert marked.best is not None
    assert marked.best[2] == "best: 0.1 at round 200 (the model)"
    assert mark_best(chart, lines, "kid", 300).best == (*marked.best[:2], "best: 0.1 at round 200")
    assert f"L{marked.best[0]:g} {marked.best[1]:g}" in chart.path


def test_another_run_lies_on_the_same_axes() -> None:
    ours = [{"round": at, "kid": 1.0} for at in (1, 2, 3)]
    theirs = [{"round": at, "kid": 3.0} for at in (1, 2, 3, 4, 5)]
    (chart,) = draw_curves([KID_PLOT], ours, theirs)
    (alone,) = draw_curves([KID_PLOT], ours)
    assert alone.other == ""
    assert chart.other.count("L") == 4
    assert chart.path != alone.path
