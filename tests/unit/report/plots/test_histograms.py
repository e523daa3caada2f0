"""Histograms now and before on the same axes."""

from __future__ import annotations

import pytest

from components.report.plots.histograms import draw_histogram


def test_histograms_share_one_axis() -> None:
    chart = draw_histogram("T", "Meaning.", 4.0, [0, 30, 10], [20, 20, 0])
    assert chart.path == "M56 174V174H154V17.8H252V121.9H350L350 174L56 174Z"
    assert chart.other == "M56 69.9V69.9H154V69.9H252V174H350"
    assert [label for _, label in chart.x_ticks] == ["0", "5", "10"]
    assert chart.description == "T: mean 7.0 now, 4.0 before."
    assert chart.caption == "Meaning."


def test_one_bucket_far_above_the_others_is_cut() -> None:
    chart = draw_histogram("T", "Meaning.", 8.0, [900, 50, 50], None)
    assert chart.caption == "Meaning. One bucket goes beyond the axis, to 90.0\N{NO-BREAK SPACE}%."
    assert chart.path.startswith("M56 10V10H")
    assert max(float(label.split()[0]) for _, label in chart.y_ticks) <= 6


@pytest.mark.parametrize(("now", "before"), [([], None), ([0, 0], None), ([1, 2], [1]), ([1], [0])])
def test_empty_histograms_are_refused(now: list[int], before: list[int] | None) -> None:
    with pytest.raises(ValueError, match="buckets now"):
        draw_histogram("T", "m", 1.0, now, before)
