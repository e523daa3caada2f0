"""Two histograms on one axis, now and before, as SVG geometry in the frame of the training curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.report.formatting import percent
from components.report.plots.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, nice_ticks

SPIKE = 3.0  # a bucket so many times as high as the next would flatten all others: the axis is cut
X_TICKS = 4


@dataclass(frozen=True)
class Histogram:
    """Shares by grey level: the `d` of a filled path (now) and of a line (before, empty for a first snapshot)."""

    title: str
    meaning: str
    description: str
    now: str
    before: str
    moved: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    cut: str


def draw_histogram(
    title: str, meaning: str, bucket: float, now: Sequence[int], before: Sequence[int] | None, moved: str = ""
) -> Histogram:
    """Return counts now and before, in buckets of `bucket` grey levels, as shares on one axis. Raises ValueError for none."""
    if not now or not sum(now) or (before is not None and (len(before) != len(now) or not sum(before))):
        raise ValueError(f"{len(now)} buckets now, {len(before or ())} before, or nothing in them")
    shares = [[count / sum(counts) for count in counts] for counts in (now, before) if counts is not None]
    high, cut = _axis(shares)
    last = len(now) * bucket

    def x(level: float) -> float:
        return round(LEFT + level / last * (WIDTH - LEFT - RIGHT), 1)

    def y(share: float) -> float:
        return round(TOP + (1 - min(1.0, share / high)) * (HEIGHT - TOP - BOTTOM), 1)

    paths = [_steps([x(index * bucket) for index in range(len(part) + 1)], [y(share) for share in part]) for part in shares]
    ground = f"L{x(last):g} {y(0):g}L{x(0):g} {y(0):g}Z"
    return Histogram(
        title=title,
        meaning=meaning,
        description=_in_words(title, bucket, shares, moved),
        now=paths[0] + ground,
        before=paths[1] if len(paths) > 1 else "",
        moved=moved,
        x_ticks=tuple((x(tick), f"{tick:g}") for tick in nice_ticks(0, last, X_TICKS)),
        y_ticks=tuple((y(tick), f"{100 * tick:.3g} %") for tick in nice_ticks(0, high, X_TICKS)),
        cut=cut,
    )


def _axis(shares: Sequence[Sequence[float]]) -> tuple[float, str]:
    """Return the upper end of the axis, and what to say where one bucket goes beyond it."""
    tallest = sorted((max(values) for values in zip(*shares, strict=True)), reverse=True)
    highest, next_ = tallest[0], tallest[1] if len(tallest) > 1 else 0.0
    if next_ > 0 and highest > SPIKE * next_:
        return next_ * 1.2, f"One bucket goes beyond the axis, to {percent(highest, 1)}."
    return highest * 1.05, ""


def _steps(edges: Sequence[float], heights: Sequence[float]) -> str:
    words = [f"M{edges[0]:g} {heights[0]:g}"]
    for right, height, following in zip(edges[1:], heights, [*heights[1:], None], strict=True):
        words.append(f"H{right:g}")
        if following is not None and following != height:
            words.append(f"V{following:g}")
    return "".join(words)


def _in_words(title: str, bucket: float, shares: Sequence[Sequence[float]], moved: str) -> str:
    means = [sum((index + 0.5) * bucket * share for index, share in enumerate(part)) for part in shares]
    text = f"{title}: mean {means[0]:.1f} now"
    text += f", {means[1]:.1f} before" if len(means) > 1 else ""
    return f"{text}. {moved}".strip()
