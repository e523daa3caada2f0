"""A score between its floor and its ceiling, so that a number means something at a glance.

The floor is what real images score against other real images: nobody can expect to be better. The ceiling is what
something useless scores. Distances grow over decades, so their axis is logarithmic far from the floor (asinh); shares
lie on a straight axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.report.formatting import number

DISTANCES = {"fid": "FID", "kid": "KID"}  # lower is better
SHARES = {"precision": "Precision", "recall": "Recall", "density": "Density", "coverage": "Coverage"}


@dataclass(frozen=True)
class Scale:
    """One score on the way from ceiling (0) to floor (100): places in percent, and what they are in words.

    `interval` is None where none was measured, `champion` where there is none to compare with.
    """

    name: str
    text: str
    floor: str
    ceiling: str
    place: float
    interval: tuple[float, float] | None
    champion: float | None
    description: str


def list_scales(scores: Mapping[str, Any], champion: Mapping[str, Any] | None = None) -> tuple[Scale, ...]:
    """Return the scores that have a floor and a ceiling. `champion` are scores of the same provenance, or None."""
    floors, ceilings = scores.get("floor") or {}, scores.get("ceiling") or {}
    return tuple(
        _scale(key, name, scores, floors[key], ceilings[key], (champion or {}).get(key))
        for key, name in {**DISTANCES, **SHARES}.items()
        if None not in (scores.get(key), floors.get(key), ceilings.get(key))
    )


def _scale(key: str, name: str, scores: Mapping[str, Any], floor: float, ceiling: float, champion: float | None) -> Scale:
    def place(value: float) -> float:
        return share_of_way(value, floor, ceiling, straight=key in SHARES)

    value = float(scores[key])
    interval = (scores.get("intervals") or {}).get(key)
    ends = tuple(sorted(place(float(end)) for end in interval)) if interval else None
    serving = "" if champion is None else f"; the champion has {number(champion, 3)}"
    return Scale(
        name=name,
        text=number(value, 3),
        floor=number(floor, 3),
        ceiling=number(ceiling, 3),
        place=place(value),
        interval=(ends[0], ends[1]) if ends else None,
        champion=None if champion is None else place(champion),
        description=f"{name} {number(value, 3)}, between {number(ceiling, 3)} of something useless and {number(floor, 3)} "
        f"of real images{serving}.",
    )


def share_of_way(value: float, floor: float, ceiling: float, *, straight: bool) -> float:
    """Return how far a score is on its way from ceiling to floor, 0 to 100; beyond either end it stays at that end."""
    if floor == ceiling:
        return 100.0
    unit = 0.0 if straight else abs(floor) or abs(ceiling) * 1e-3

    def bent(number: float) -> float:
        return math.asinh((number - floor) / unit) if unit else number - floor

    return 100.0 * min(1.0, max(0.0, 1.0 - bent(value) / bent(ceiling)))
