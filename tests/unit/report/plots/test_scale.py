"""The position of a score between noise and real images."""

from __future__ import annotations

import pytest

from components.report.plots.scale import list_scales, position_between
from tests.support.report_runs import BETWEEN, CHAMPION_SCORES, SCORES


@pytest.mark.parametrize(
    ("value", "floor", "ceiling", "logarithmic", "position"),
    [
        (1.0, 1.0, 300.0, True, 100),
        (300.0, 1.0, 300.0, True, 0),
        (0.25, 1.0, 0.0, False, 25),
        (-1.0, 1.0, 0.0, False, 0),
        (2.0, 1.0, 0.0, False, 100),
        (5.0, 2.0, 2.0, True, 100),
    ],
)
def test_a_score_lies_between_its_ends(value: float, floor: float, ceiling: float, logarithmic: bool, position: float) -> None:
    assert position_between(value, floor, ceiling, logarithmic=logarithmic) == pytest.approx(position)


def test_a_lower_distance_is_further_to_the_right() -> None:
    near, far = (position_between(value, 0.0, 2.0, logarithmic=True) for value in (0.1, 0.2))
    assert near > far


def test_scales_need_both_ends_and_mark_the_champion() -> None:
    assert list_scales(SCORES) == ()
    scales = list_scales(SCORES | BETWEEN, CHAMPION_SCORES)
    assert [scale.name for scale in scales] == ["FID", "KID", "Precision", "Recall", "Density", "Coverage"]
    assert [scale.logarithmic for scale in scales] == [True, True, False, False, False, False]
    fid, kid, *_ = scales
    assert fid.champion is not None
    assert fid.champion < fid.position < 100  # further right is better
    assert kid.interval is not None
    assert kid.interval[0] < kid.position < kid.interval[1]
    assert fid.description == "FID 12.3: noise scores 310, real images 0.9; the champion has 19.9."
