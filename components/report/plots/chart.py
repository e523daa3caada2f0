"""A chart as the templates draw it, and the axes on which curves and histograms lie."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 56, 10, 10, 26  # margins for the axis labels
TICKS = 4

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Chart:
    """Lines on two axes: the `d` of their SVG paths, ticks as (position, label), and a description for screen readers.

    `other` is the line of another run or snapshot on the same axes. `zero` and `resumed` are positions of lines,
    `best` is the (x, y, label) of the best value.
    """

    title: str
    caption: str
    description: str
    path: str
    other: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    last: float | None = None
    zero: float | None = None
    resumed: float | None = None
    best: tuple[float, float, str] | None = None
    filled: bool = False


@dataclass(frozen=True)
class Axes:
    """The ends of both axes; `x` and `y` return positions in the SVG, rounded to a tenth of a pixel."""

    left: float
    right: float
    low: float
    high: float

    def x(self, values: Values | float) -> Values:
        """Return horizontal positions."""
        return np.round(LEFT + (np.asarray(values) - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, values: Values | float) -> Values:
        """Return vertical positions; SVG counts downwards."""
        return np.round(TOP + (self.high - np.asarray(values)) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM), 1)


def nice_ticks(low: float, high: float) -> list[float]:
    """Return about TICKS round numbers (1, 2 or 5 times a power of ten apart) between two ends."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]
