"""Training curves as SVG geometry; the template draws it, so that the curves follow the page's colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 56, 10, 10, 26  # margins for the axes' labels
MAX_POINTS = 400  # more than a line of this width can show
SPIKE = 8.0  # a range so many times that of the middle 90 % is cut, or one early value hides all others


@dataclass(frozen=True)
class Chart:
    """One column of metrics.jsonl: the `d` of its path, ticks as (position, label), and what it shows in words."""

    title: str
    meaning: str
    description: str
    path: str
    last: float
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    zero: float | None
    resumed: float | None
    clipped: int
    other: str = ""  # the same column of another run, on the same axes
    best: tuple[float, float, str] | None = None  # where the lowest value lies, and what to say of it


PLOTS = (
    (
        "wasserstein_gap",
        "Wasserstein gap",
        "The critic's mean score of real images minus that of fakes. Once the critic has caught up it should fall and "
        "settle; if it grows for long, the critic overfits or diverges.",
    ),
    (
        "penalty",
        "Gradient penalty",
        "How far the critic's slopes are from 1. It should stay small; a steep rise comes before divergence.",
    ),
    ("critic_loss", "Critic loss", "The weighted penalty minus the gap. Late in training it should rise towards 0."),
    (
        "generator_loss",
        "Generator loss",
        "Minus the critic's mean score of fakes. It should be calm; its level means nothing.",
    ),
    ("critic_grad_norm", "Critic's gradient norm", "Of all its weights. It should neither vanish nor grow for long."),
    (
        "generator_grad_norm",
        "Generator's gradient norm",
        "Of all its weights. It should not vanish.",
    ),
)


SCORE_PLOTS = (
    (
        "kid",
        "KID while training",
        "Of the generator's moving average (EMA), which is what becomes the model, against held-out images, on fixed random "
        "features; lower is better. It tells moments of this training apart, and is no score of the model.",
    ),
)


def draw_charts(
    metrics: Sequence[dict[str, Any]],
    resumed_from_round: int = 0,
    plots: tuple[tuple[str, str, str], ...] = PLOTS,
    other: Sequence[dict[str, Any]] = (),
) -> tuple[Chart, ...]:
    """Return the charts of metrics.jsonl's lines; a column without a finite value is left out.

    `other` are the lines of another run, drawn on the same axes.
    """
    charts = []
    for name, title, meaning in plots:
        curve, beside = _curve(metrics, name), _curve(other, name)
        if curve.known:
            charts.append(_chart(title, meaning, curve, beside, float(resumed_from_round)))
    return tuple(charts)


def mark_best(chart: Chart, metrics: Sequence[dict[str, Any]], name: str, exported_round: int | None) -> Chart:
    """Return the chart with its lowest value marked, and whether the model that was kept is the one of that round."""
    curve = _curve(metrics, name)
    at, value = min(curve.known, key=lambda point: (point[1], point[0]))
    x, y = _axes([curve])[:2]
    words = f"best, {value:.4g} at round {at:,.0f}" + (": this is the model" if exported_round == at else "")
    return replace(chart, best=(x(at), y(value), words), description=f"{chart.description} The {words}.")


class _Curve(NamedTuple):
    rounds: list[float]
    column: list[float | None]

    @property
    def known(self) -> list[tuple[float, float]]:
        return [(place, value) for place, value in zip(self.rounds, self.column, strict=True) if value is not None]


def _curve(metrics: Sequence[dict[str, Any]], name: str) -> _Curve:
    return _Curve([float(line["round"]) for line in metrics], [_number(line.get(name)) for line in metrics])


class _Axes(NamedTuple):
    x: Callable[[float], float]
    y: Callable[[float], float]
    rounds: tuple[float, float]
    values: tuple[float, float]


def _axes(curves: Sequence[_Curve]) -> _Axes:
    """Return what turns rounds and values into pixels, for axes that hold all curves."""
    low, high = visible_range([value for curve in curves for _, value in curve.known])
    first = min(min(curve.rounds) for curve in curves)
    last = max(max(curve.rounds) for curve in curves)
    if first == last:  # a single moment stands in the middle
        first, last = first - 1, last + 1

    def x(value: float) -> float:
        return round(LEFT + (value - first) / (last - first) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    return _Axes(x, y, (first, last), (low, high))


def _chart(title: str, meaning: str, curve: _Curve, other: _Curve, resumed: float) -> Chart:
    axes = _axes([curve, other] if other.known else [curve])
    (first, right), (low, high) = axes.rounds, axes.values
    (start, began), (end, ended) = curve.known[0], curve.known[-1]
    return Chart(
        title=title,
        meaning=meaning,
        description=f"{title} from {began:.4g} at round {start:,.0f} to {ended:.4g} at round {end:,.0f}.",
        path=_path(curve, axes),
        last=ended,
        x_ticks=tuple((axes.x(tick), f"{tick:,.0f}") for tick in nice_ticks(first, right, 4) if tick == int(tick)),
        y_ticks=tuple((axes.y(tick), f"{tick:.4g}") for tick in nice_ticks(low, high, 4)),
        zero=axes.y(0.0) if low < 0.0 < high else None,
        resumed=axes.x(resumed) if first < resumed < max(curve.rounds) else None,
        clipped=sum(not low <= value <= high for _, value in curve.known),
        other=_path(other, axes),
    )


def _path(curve: _Curve, axes: _Axes) -> str:
    points = thinned(curve.rounds, curve.column)
    return svg_path([(axes.x(at), None if value is None else axes.y(value)) for at, value in points])


def visible_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the lower and upper end of the vertical axis: all values, unless a few spikes would flatten the rest."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    inner_low, inner_high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    inner = inner_high - inner_low
    if inner > 0 and high - low > SPIKE * inner:
        low, high = max(low, inner_low - inner), min(high, inner_high + inner)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - pad, high + pad


def thinned(rounds: Sequence[float], column: Sequence[float | None]) -> list[tuple[float, float | None]]:
    """Return at most MAX_POINTS points of a curve, each the mean of its neighbours; gaps (not finite) stay gaps."""
    width = max(1, math.ceil(len(rounds) / MAX_POINTS))
    points: list[tuple[float, float | None]] = []
    for start in range(0, len(rounds), width):
        part = column[start : start + width]
        known = [value for value in part if value is not None]
        mean = sum(known) / len(known) if len(known) == len(part) else None
        points.append((rounds[min(start + width, len(rounds)) - 1], mean))
    return points


def svg_path(points: Sequence[tuple[float, float | None]]) -> str:
    """Return the `d` of a path through the points, broken where there is no value; a lone point becomes a dot."""
    words, pen_up = [], True
    for x, y in points:
        if y is None:
            pen_up = True
            continue
        words.append(f"{'M' if pen_up else 'L'}{x:g} {y:g}" + ("h0" if pen_up else ""))
        pen_up = False
    return "".join(words)


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers (1, 2 or 5 times a power of ten apart) between two ends."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
