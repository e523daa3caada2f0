"""Training curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from components.report.plots.chart import Axes, Chart, Values, nice_ticks

MAX_POINTS = 400  # more than a line of a chart's width can show
SPIKE = 8.0  # the axis is cut where the whole range exceeds that of the middle 90 % this many times


class Plot(NamedTuple):
    """A column of metrics.jsonl or scores.jsonl, and the title and caption of its chart."""

    column: str
    title: str
    meaning: str


PLOTS = (
    Plot(
        "wasserstein_gap",
        "Wasserstein gap",
        "The critic's mean score of real images minus its mean score of fake images. Once the critic has caught up, the gap "
        "should fall and settle; if it grows for long, the critic overfits or training diverges.",
    ),
    Plot("penalty", "Gradient penalty", "Distance of the critic's slopes from 1. A steep rise comes before divergence."),
    Plot("critic_loss", "Critic loss", "The weighted penalty minus the gap. Late in training it should rise towards 0."),
    Plot(
        "generator_loss", "Generator loss", "Minus the mean score of fake images. It should be calm; its level has no meaning."
    ),
    Plot("critic_grad_norm", "Critic gradient norm", "Over all weights. It should neither vanish nor grow for long."),
    Plot("generator_grad_norm", "Generator gradient norm", "Over all weights. It should not vanish."),
)
KID_PLOT = Plot(
    "kid",
    "KID during training",
    "KID of the generator's moving average (EMA), which becomes the model, against held-out images, on fixed random features; "
    "lower is better. It compares rounds of this training only: it is not the KID of the scores.",
)


def draw_curves(
    plots: Sequence[Plot], lines: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]] = (), resumed_from_round: int = 0
) -> tuple[Chart, ...]:
    """Return the charts of a JSON Lines file; a column without a finite value has none.

    `other` are the lines of another run, drawn on the same axes. Raises ValueError for values that are not numbers.
    """
    charts = []
    for plot in plots:
        curve = _curve(lines, plot.column)
        if len(curve.finite().values):
            charts.append(_chart(plot, curve, _curve(other, plot.column), resumed_from_round))
    return tuple(charts)


def mark_best(chart: Chart, lines: Sequence[dict[str, Any]], column: str, exported_round: int | None) -> Chart:
    """Return the chart with its lowest value marked, and with a note if the model is the one of that round."""
    curve = _curve(lines, column)
    axes = _axes([curve])
    index = int(np.nanargmin(curve.values))
    at, value = curve.rounds[index], curve.values[index]
    label = f"best: {value:.3g} at round {at:,.0f}" + (" (the model)" if exported_round == at else "")
    best = (float(axes.x(at)), float(axes.y(value)), label)
    return replace(chart, best=best, description=f"{chart.description} {label.capitalize()}.")


class _Curve(NamedTuple):
    rounds: Values
    values: Values  # NaN where the value is missing or not finite

    def finite(self) -> _Curve:
        known = np.isfinite(self.values)
        return _Curve(self.rounds[known], self.values[known])


def _curve(lines: Sequence[dict[str, Any]], column: str) -> _Curve:
    rounds = np.array([line["round"] for line in lines], np.float64)
    values = np.array([line.get(column) for line in lines], np.float64)
    return _Curve(rounds, np.where(np.isfinite(values), values, np.nan))


def _axes(curves: Sequence[_Curve]) -> Axes:
    """Return axes that hold all curves."""
    low, high = visible_range(np.concatenate([curve.finite().values for curve in curves]))
    rounds = np.concatenate([curve.rounds for curve in curves])
    first, last = float(rounds.min()), float(rounds.max())
    if first == last:  # a single round is drawn in the middle
        first, last = first - 1, last + 1
    return Axes(first, last, low, high)


def _chart(plot: Plot, curve: _Curve, other: _Curve, resumed: float) -> Chart:
    axes = _axes([curve, other])
    rounds, values = curve.finite()
    clipped = int(((values < axes.low) | (values > axes.high)).sum())
    beyond = f" {clipped} point{'' if clipped == 1 else 's'} beyond the axis." if clipped else ""
    return Chart(
        title=plot.title,
        caption=plot.meaning + beyond,
        description=f"{plot.title} from {values[0]:.4g} at round {rounds[0]:,.0f} "
        f"to {values[-1]:.4g} at round {rounds[-1]:,.0f}.",
        path=_path(curve, axes),
        other=_path(other, axes),
        x_ticks=tuple((float(axes.x(tick)), f"{tick:,.0f}") for tick in nice_ticks(axes.left, axes.right) if tick == int(tick)),
        y_ticks=tuple((float(axes.y(tick)), f"{tick:.4g}") for tick in nice_ticks(axes.low, axes.high)),
        last=float(values[-1]),
        zero=float(axes.y(0.0)) if axes.low < 0.0 < axes.high else None,
        resumed=float(axes.x(resumed)) if axes.left < resumed < curve.rounds.max() else None,
    )


def _path(curve: _Curve, axes: Axes) -> str:
    rounds, values = thinned(*curve)
    if len(values) == 1:  # a short line, since a single point would hardly be seen
        return f"M{axes.x(rounds[0]) - 4:g} {axes.y(values[0]):g}h8"
    return svg_path(axes.x(rounds), axes.y(values))


def visible_range(values: Values) -> tuple[float, float]:
    """Return the ends of the vertical axis: all values fit, unless a few spikes would flatten the others."""
    ordered = np.sort(values)
    low, high = float(ordered[0]), float(ordered[-1])
    cut = len(ordered) // 20
    inner_low, inner_high = float(ordered[cut]), float(ordered[-1 - cut])
    inner = inner_high - inner_low
    if inner > 0 and high - low > SPIKE * inner:
        low, high = max(low, inner_low - inner), min(high, inner_high + inner)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - pad, high + pad


def thinned(rounds: Values, values: Values) -> tuple[Values, Values]:
    """Return at most MAX_POINTS points, each the mean of consecutive values at their last round; gaps (NaN) stay gaps."""
    starts = np.arange(0, len(rounds), max(1, math.ceil(len(rounds) / MAX_POINTS)))
    if not len(starts):
        return rounds, values
    ends = np.append(starts[1:], len(rounds))
    return rounds[ends - 1], np.add.reduceat(values, starts) / (ends - starts)


def svg_path(xs: Values, ys: Values) -> str:
    """Return the `d` of an SVG path through points, broken where y is NaN; a single point becomes a dot."""
    parts, pen_up = [], True
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(y):
            parts.append(f"{'M' if pen_up else 'L'}{x:g} {y:g}" + ("h0" if pen_up else ""))
        pen_up = not math.isfinite(y)
    return "".join(parts)
