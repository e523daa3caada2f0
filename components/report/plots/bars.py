"""Horizontal bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAX_BARS = 30


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its length in percent of the longest, and its value as text."""

    name: str
    length: float
    text: str


@dataclass(frozen=True)
class Bars:
    """The bars shown, and the number of shorter ones that are not."""

    bars: tuple[Bar, ...] = ()
    left_out: int = 0


def to_bars(items: Sequence[tuple[str, float]], text: Callable[[float], str]) -> Bars:
    """Return (name, value) pairs as bars in their order; of more than MAX_BARS only the largest, in descending order."""
    shown = items if len(items) <= MAX_BARS else sorted(items, key=lambda item: -item[1])[:MAX_BARS]
    longest = max((value for _, value in shown), default=0.0) or 1.0
    bars = tuple(Bar(name, 100 * max(0.0, value) / longest, text(value)) for name, value in shown)
    return Bars(bars, len(items) - len(shown))
