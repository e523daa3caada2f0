"""Numbers, times and other values as text."""

from __future__ import annotations

import datetime
import json
from typing import Any

from pydantic import ByteSize


def number(value: Any, digits: int = 4) -> str:
    """Return a number with `digits` significant digits, integers in full with thousands separators; «—» for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "—"
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def percent(part: float, whole: float) -> str:
    """Return part / whole as a percentage with one decimal; «0 %» if whole is 0."""
    return f"{100 * part / whole:.1f}\N{NO-BREAK SPACE}%" if whole else "0\N{NO-BREAK SPACE}%"


def duration(seconds: float) -> str:
    """Return a duration in at most two units: 0.42 s, 12.3 s, 4 min 10 s, 3 h 5 min."""
    if seconds < 0.005:
        return "0 s"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(text: str) -> str:
    """Return an ISO 8601 time in UTC; text that is not a time is returned unchanged."""
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


def plain(value: Any) -> str:
    """Return a JSON value as text: strings without quotes, floats as number() writes them, the rest as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return number(value)
    return json.dumps(value, ensure_ascii=False)


def size(count: int) -> str:
    """Return a number of bytes with a unit."""
    return ByteSize(count).human_readable(decimal=True, separator=" ")
