"""A score on the way from noise to real images.

The floor is what real images score against other real images: no model can be expected to do better. The ceiling is what
noise scores. Distances grow over decades, so their axis is logarithmic far from the floor (asinh); shares have a linear axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from components.evaluate.metrics import table
from components.evaluate.metrics.metric import Metric
from components.report.formatting import number


class Scale:
    """One score on the way from the ceiling (0) to the floor (100): positions in percent, and their texts.

    `interval` is None if none was measured, `champion` is None if there is no comparable one.
    """

    def __init__(self, metric: Metric, scores: Mapping[str, Any], champion: float | None) -> None:
        value, floor, ceiling = scores[metric.name], scores["floor"][metric.name], scores["ceiling"][metric.name]
        self.logarithmic = metric.better == "lower" and "and up" in metric.range

        def position(score: float) -> float:
            return position_between(score, floor, ceiling, logarithmic=self.logarithmic)

        interval = (scores.get("intervals") or {}).get(metric.name)
        self.name = metric.title
        self.text, self.floor, self.ceiling = number(value, 3), number(floor, 3), number(ceiling, 3)
        self.position = position(value)
        self.interval = sorted(map(position, interval)) if interval else None
        self.champion = None if champion is None else position(champion)
        champion_text = "" if champion is None else f"; the champion has {number(champion, 3)}"
        self.description = f"{self.name} {self.text}: noise scores {self.ceiling}, real images {self.floor}{champion_text}."


def list_scales(scores: Mapping[str, Any], champion: Mapping[str, Any] | None = None) -> tuple[Scale, ...]:
    """Return the scores that have a floor and a ceiling. `champion` are scores of the same provenance, or None."""
    known = [scores, scores.get("floor") or {}, scores.get("ceiling") or {}]
    return tuple(
        Scale(metric, scores, (champion or {}).get(metric.name))
        for metric in table.metrics_on("scale")
        if all(values.get(metric.name) is not None for values in known)
    )


def position_between(value: float, floor: float, ceiling: float, *, logarithmic: bool) -> float:
    """Return the position of a score between ceiling (0) and floor (100); scores beyond an end are put at that end."""
    if floor == ceiling:
        return 100.0
    unit = (abs(floor) or abs(ceiling) * 1e-3) if logarithmic else 0.0

    def scaled(score: float) -> float:
        return math.asinh((score - floor) / unit) if unit else score - floor

    return 100.0 * min(1.0, max(0.0, 1.0 - scaled(value) / scaled(ceiling)))
