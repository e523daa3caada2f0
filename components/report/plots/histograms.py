"""Histograms of this snapshot and of the last accepted one on the same axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.report.formatting import percent
from components.report.plots.chart import Axes, Chart, Values, nice_ticks

SPIKE = 3.0  # the axis is cut where one bucket is this many times as high as the next, which would flatten all others


def draw_histogram(
    title: str, meaning: str, bucket: float, now: Sequence[int], before: Sequence[int] | None, moved: str = ""
) -> Chart:
    """Return counts in buckets of `bucket` grey levels as a chart of shares. Raises ValueError where nothing was counted."""
    if not now or not sum(now) or (before is not None and (len(before) != len(now) or not sum(before))):
        raise ValueError(f"{len(now)} buckets now and {len(before or ())} before, or all of them empty")
    shares = [np.divide(counts, sum(counts)) for counts in (now, before) if counts is not None]
    high, cut = _upper_end(np.max(shares, axis=0))
    axes = Axes(0.0, len(now) * bucket, 0.0, high)
    edges = bucket * np.arange(len(now) + 1, dtype=np.float64)
    paths = [_steps(axes.x(edges), axes.y(np.minimum(share, high))) for share in shares]
    ground = f"L{axes.x(axes.right):g} {axes.y(0.0):g}L{axes.x(0.0):g} {axes.y(0.0):g}Z"
    means = [f"{float((edges[:-1] + bucket / 2) @ share):.1f}" for share in shares]
    description = f"{title}: mean {means[0]} now" + (f", {means[1]} before" if before else "")
    return Chart(
        title=title,
        caption=" ".join(filter(None, (meaning, moved, cut))),
        description=f"{description}. {moved}".strip(),
        path=paths[0] + ground,
        other=paths[1] if before else "",
        x_ticks=tuple((float(axes.x(tick)), f"{tick:g}") for tick in nice_ticks(0, axes.right)),
        y_ticks=tuple((float(axes.y(tick)), f"{100 * tick:.3g} %") for tick in nice_ticks(0, high)),
        filled=True,
    )


def _upper_end(tallest: Values) -> tuple[float, str]:
    """Return the upper end of the axis, and a sentence where one bucket goes beyond it."""
    *_, second, highest = np.sort([0.0, *tallest])
    if second > 0 and highest > SPIKE * second:
        return float(second) * 1.2, f"One bucket goes beyond the axis, to {percent(float(highest), 1)}."
    return float(highest) * 1.05, ""


def _steps(edges: Values, heights: Values) -> str:
    """Return the `d` of the outline."""
    steps = (f"V{height:g}H{right:g}" for height, right in zip(heights, edges[1:], strict=True))
    return f"M{edges[0]:g} {heights[0]:g}" + "".join(steps)
