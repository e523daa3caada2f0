"""Numbers, times and other values as text."""

from __future__ import annotations

import pytest

from components.report import formatting


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1797, "1,797"), (3.0, "3"), (0.012346, "0.01235"), (123456.7, "123,457"), (None, "—"), (True, "—")],
)
def test_number(value: float | None, text: str) -> None:
    assert formatting.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.42, "0.42 s"), (12.34, "12.3 s"), (59.97, "1 min 0 s"), (250, "4 min 10 s"), (11100, "3 h 5 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


def test_moment_size_plain_percent() -> None:
    assert formatting.moment("2026-01-31T12:05:00.123+02:00") == "2026-01-31 10:05:00 UTC"
    assert formatting.moment("yesterday") == "yesterday"
    assert [formatting.size(count) for count in (12, 1234, 123_456, 12_345_678)] == ["12 B", "1.2 KB", "123.5 KB", "12.3 MB"]
    assert [formatting.plain(value) for value in ("a", 0.5, [1, "é"], None)] == ["a", "0.5", '[1, "é"]', "null"]
    assert formatting.percent(1, 8) == "12.5\N{NO-BREAK SPACE}%"
    assert formatting.percent(0, 0) == "0\N{NO-BREAK SPACE}%"
