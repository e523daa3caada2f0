"""Training curves: what is drawn where."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.report.plots.curves import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_POINTS,
    RIGHT,
    SCORE_PLOTS,
    TOP,
    WIDTH,
    draw_charts,
    nice_ticks,
    svg_path,
    thinned,
    visible_range,
)


def line(at: int, **values: float | None) -> dict[str, float | int | None]:
    return {"round": at, "images_seen": at * 10, **values}


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def test_curve_runs_from_first_to_last_round_and_low_is_below_high() -> None:
    (chart,) = draw_charts([line(50, penalty=3.0), line(100, penalty=2.0), line(150, penalty=1.0)])
    drawn = points(chart.path)
    assert [x for x, _ in drawn] == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    assert drawn[0][1] < drawn[1][1] < drawn[2][1]  # SVG counts y downwards
    assert all(TOP <= y <= HEIGHT - BOTTOM for _, y in drawn)
    assert (chart.title, chart.last, chart.clipped) == ("Gradient penalty", 1.0, 0)
    assert chart.description == "Gradient penalty from 3 at round 50 to 1 at round 150."


def test_every_column_has_a_chart_and_empty_columns_none() -> None:
    names = ("critic_loss", "wasserstein_gap", "penalty", "critic_grad_norm", "generator_loss", "generator_grad_norm")
    assert len(draw_charts([line(1, **dict.fromkeys(names, 1.0)), line(2, **dict.fromkeys(names, 2.0))])) == len(names)
    assert draw_charts([line(1, penalty=math.nan), line(2, penalty=None)]) == ()
    assert draw_charts([]) == ()


@pytest.mark.parametrize("broken", [math.nan, math.inf, None])
def test_value_that_is_not_finite_breaks_the_line(broken: float | None) -> None:
    (chart,) = draw_charts([line(at, penalty=broken if at == 3 else float(at)) for at in range(1, 6)])
    assert chart.path.count("M") == 2
    assert len(points(chart.path)) == 4


def test_single_and_constant_values_are_drawn() -> None:
    (chart,) = draw_charts([line(50, penalty=0.0)])
    assert len(points(chart.path)) == 1
    (chart,) = draw_charts([line(1, penalty=5.0), line(2, penalty=5.0)])
    assert {y for _, y in points(chart.path)} == {round(TOP + (HEIGHT - TOP - BOTTOM) / 2, 1)}


def test_resumption_is_marked_only_inside() -> None:
    metrics = [line(at, penalty=1.0) for at in (0, 100, 200)]
    assert draw_charts(metrics, 100)[0].resumed == (LEFT + WIDTH - RIGHT) / 2
    assert draw_charts(metrics, 0)[0].resumed is None
    assert draw_charts(metrics, 200)[0].resumed is None


def test_one_early_spike_does_not_flatten_the_rest() -> None:
    values = [1000.0] + [1.0 + 0.01 * index for index in range(60)]
    low, high = visible_range(values)
    assert low < 1.0
    assert high < 10
    (chart,) = draw_charts([line(at, penalty=value) for at, value in enumerate(values)])
    assert chart.clipped == 1
    assert visible_range([0.0, 1.0, 2.0]) == pytest.approx((-0.1, 2.1))


def test_zero_line_is_drawn_only_inside() -> None:
    assert draw_charts([line(1, critic_loss=-1.0), line(2, critic_loss=1.0)])[0].zero == pytest.approx(
        (TOP + HEIGHT - BOTTOM) / 2
    )
    assert draw_charts([line(1, critic_loss=5.0), line(2, critic_loss=6.0)])[0].zero is None


def test_long_trainings_are_thinned_to_means() -> None:
    rounds = [float(at) for at in range(10_000)]
    thin = thinned(rounds, [at % 2 for at in rounds])
    assert len(thin) <= MAX_POINTS
    assert {value for _, value in thin} <= {0.48, 0.52, 0.5}
    assert thin[-1][0] == 9999.0
    assert thinned([1.0, 2.0], [5.0, None]) == [(1.0, 5.0), (2.0, None)]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_even_round_and_inside(low: float, span: float, count: int) -> None:
    ticks = nice_ticks(low, low + span, count)
    steps = [after - before for before, after in pairwise(ticks)]
    assert len(ticks) <= count + 1
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    assert all(step == pytest.approx(steps[0], rel=1e-3) for step in steps)


def test_svg_path_of_points() -> None:
    assert svg_path([(1.0, 2.0), (3.0, 4.0), (5.0, None), (6.0, 7.5)]) == "M1 2h0L3 4M6 7.5h0"


def test_scores_while_training_have_a_chart_of_their_own() -> None:
    scores = [{"round": 10, "kid": 0.4, "kid_std": 0.1}, {"round": 20, "kid": 0.2, "kid_std": 0.1}]
    (chart,) = draw_charts(scores, plots=SCORE_PLOTS)
    assert chart.title == "KID while training"
    assert chart.last == 0.2
