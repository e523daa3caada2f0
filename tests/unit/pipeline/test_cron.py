"""Schedules: from five fields to the form of each platform, and to words."""

from __future__ import annotations

import datetime
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from components.common.errors import ConfigError
from pipeline.cron import parse_cron

NOON = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("text", "fields", "words"),
    [
        ("0 2 * * *", "0 2 * * *", "At 02:00 every day, UTC time"),
        ("30 6 * * 1-5", "30 6 * * 1,2,3,4,5", "At 06:30 on Monday through Friday, UTC time"),
        ("30 6 * * mon-fri", "30 6 * * 1,2,3,4,5", "At 06:30 on Monday through Friday, UTC time"),
        ("0 0 * * 7", "0 0 * * 0", "At 00:00 on Sunday, UTC time"),
        ("*/20 9-10 * jan *", "0,20,40 9,10 * 1 *", "Every 20th minute past hours 9 and 10 in January, UTC time"),
        ("0 3 1 */6 *", "0 3 1 1,7 *", "At 03:00 on the first day of January and July, UTC time"),
        ("*/5 * * * *", "0,5,10,15,20,25,30,35,40,45,50,55 * * * *", "Every fifth minute of every hour, UTC time"),
    ],
)
def test_fields_become_numbers_and_words(text: str, fields: str, words: str) -> None:
    cron = parse_cron(text)
    assert cron.fields == fields
    assert cron.explain() == words
    assert parse_cron(cron.fields).explain() == words, "a platform returns the numbers, and `list` explains those"
    assert cron.for_kubeflow("UTC") == f"0 {fields}"
    assert cron.for_vertex() == f"TZ=UTC {fields}"


def test_next_times_use_the_time_zone_of_the_schedule_and_daylight_saving() -> None:
    before = datetime.datetime(2026, 3, 27, 12, tzinfo=datetime.UTC)
    times = parse_cron("30 6 * * *", "Europe/Zurich").next_times(before)
    assert [time.isoformat() for time in times] == [
        "2026-03-28T06:30:00+01:00", "2026-03-29T06:30:00+02:00", "2026-03-30T06:30:00+02:00",
    ]  # fmt: skip
    assert times[0].tzinfo == ZoneInfo("Europe/Zurich")


@given(
    st.integers(0, 59), st.integers(0, 23), st.lists(st.integers(1, 28), max_size=4), st.lists(st.integers(1, 12), max_size=3)
)
def test_the_numbers_give_the_same_times(minute: int, hour: int, days: list[int], months: list[int]) -> None:
    text = f"{minute} {hour}-23 {','.join(map(str, days)) or '*'} {','.join(map(str, months)) or '*/2'} *"
    cron = parse_cron(text)
    assert cron.next_times(NOON, 5) == list(islice(CronSim(text, NOON), 5))
    assert parse_cron(cron.fields).explain() == cron.explain()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0 0 2 * * *", "has 6 fields instead of 5. Omit the seconds: 0 2 * * *."),
        ("2 *", "has 2 fields instead of 5. Write minute hour day-of-month month day-of-week, such as 0 2 * * *"),
        ("61 * * * *", "is invalid: Bad minute."),
        ("0 0 31 2 *", "is invalid: Bad day-of-month."),
        ("@daily", "has 1 fields"),
        ("0 0 L * *", "uses L, W or #, which Kubeflow and Vertex do not support. Name the days."),
        ("0 0 * * 5#2", "uses L, W or #"),
        ("0 0 1 * 1", "names days of the month and of the week"),
    ],
)  # fmt: skip
def test_schedules_that_no_platform_can_express_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_cron(text)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe"])
def test_unknown_zones_are_refused(zone: str) -> None:
    with pytest.raises(ConfigError, match="There is no time zone"):
        parse_cron("0 2 * * *", zone)


def test_a_time_zone_other_than_the_clusters_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"is in Europe/Zurich time, but .* in UTC time\. .* and give --cluster-time-zone Europe/Zurich\."
    ):
        parse_cron("0 2 * * *", "Europe/Zurich").for_kubeflow("UTC")
