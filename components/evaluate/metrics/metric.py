"""The description of a metric: one row of METRICS (table.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.evaluate.metrics.inputs import Inputs

Page = Literal["report", "scale", "card", "vertex", "console"]


@dataclass(frozen=True)
class Metric:
    """A metric.

    `name` is its key in scores.json and summary.json. `better` is the direction of improvement ("target": towards `best`).
    `best` is the best value (None: it depends on the data). `reading` and `meaning` explain it to the reader. `shown` are the
    pages that show it. `measure` returns its value, and its standard error and p-value if it has them, by key; it returns
    nothing if an input is missing. `gate`: publishing depends on it. `error` and `p_value` are the keys of its standard error
    and p-value. `decimals` is the number of digits that pages show.
    """

    name: str
    title: str
    better: Literal["lower", "higher", "target"]
    range: str
    reading: str
    meaning: str
    shown: frozenset[Page]
    measure: Callable[[Inputs], Mapping[str, float]]
    best: float | None = None
    source: str = ""
    gate: bool = False
    error: str = ""
    p_value: str = ""
    decimals: int = 3

    def text(self, scores: Mapping[str, Any], decimals: int | None = None) -> str:
        """Return the value of this metric, with its standard error if `scores` has one; "" if there is no value."""
        value = scores.get(self.name)
        if value is None:
            return ""
        digits = self.decimals if decimals is None else decimals
        shown = f"{value:.{digits}f}"
        shown = shown.removeprefix("-") if float(shown) == 0 else shown  # -0.000 is 0.000
        error = scores.get(self.error)
        return shown if error is None else f"{shown} ± {error:.{digits}f}"

    def gain(self, a: float, b: float) -> float:
        """Return how much better `a` is than `b`: positive if it is, negative if it is worse, NaN if undefined."""
        if self.better == "target" and self.best is not None:
            return abs(b - self.best) - abs(a - self.best)
        return a - b if self.better == "higher" else b - a if self.better == "lower" else math.nan
