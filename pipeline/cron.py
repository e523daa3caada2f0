"""Cron schedules: five fields as cron(8) reads them, and the form that each platform reads.

Kubeflow Pipelines reads six fields, seconds first (robfig/cron v1), so it accepts `0 2 * * *` and runs at minute 2 of every
hour (kubeflow/kubeflow#5306). It has one time zone for the whole cluster (kubeflow/pipelines#4641). Vertex reads a time zone
and five fields. Both get lists of numbers, since neither reads all forms of cron(8).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from components.common.errors import ConfigError

FIELDS = "minute hour day-of-month month day-of-week"
ANY_TIME = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
FULL = (range(60), range(24), range(1, 32), range(1, 13), range(7))


class Cron(NamedTuple):
    """Five fields, each `*` or a list of numbers, and the name of a time zone."""

    fields: str
    zone: str

    def explain(self) -> str:
        """Return the schedule in words, with its time zone: the same for all ways to write the same fields."""
        short = " ".join(_short(field, full) for field, full in zip(self.fields.split(), FULL, strict=True))
        return f"{CronSim(short, ANY_TIME).explain()}, {self.zone} time"

    def next_times(self, after: datetime.datetime, count: int = 3) -> list[datetime.datetime]:
        """Return the next times after `after`, which has a time zone, in the schedule's time zone."""
        return list(islice(CronSim(self.fields, after.astimezone(ZoneInfo(self.zone))), count))

    def for_kubeflow(self, cluster_zone: str) -> str:
        """Return the six fields of KFP. Raises ConfigError if the cluster's time zone is not the schedule's."""
        if self.zone != cluster_zone:
            raise ConfigError(
                f"The schedule is in {self.zone} time, but this Kubeflow reads every schedule in {cluster_zone} time.",
                f"Write it in {cluster_zone} time, or set CRON_SCHEDULE_TIMEZONE of the cluster's controller of scheduled "
                f"workflows to {self.zone} and give --cluster-time-zone {self.zone}.",
            )
        return f"0 {self.fields}"

    def for_vertex(self) -> str:
        """Return the time zone and the five fields."""
        return f"TZ={self.zone} {self.fields}"


def parse_cron(text: str, zone: str = "UTC") -> Cron:
    """Return a schedule from five fields as cron(8) reads them.

    Raises ConfigError for another number of fields, for invalid fields, for days that never come, for forms that the platforms
    cannot express (L, W, #, or a day of the month *or* of the week), and for an unknown time zone.
    """
    parts = text.split()
    if len(parts) != 5:
        cure = f"Write {FIELDS}, such as 0 2 * * * for every night at two."
        if len(parts) == 6:
            cure = f"Omit the seconds: {' '.join(parts[1:])}."
        raise ConfigError(f"The schedule {text!r} has {len(parts)} fields instead of 5.", cure)
    try:
        parsed = CronSim(text, ANY_TIME)
        next(parsed)
    except (CronSimError, StopIteration) as error:
        reason = str(error) or "no such day comes within 50 years"
        raise ConfigError(f"The schedule {text!r} is invalid: {reason}.", f"Write {FIELDS}.") from None
    return Cron(_numbers(parsed, text), _known_zone(zone))


def _numbers(parsed: CronSim, text: str) -> str:
    """Return the fields as `*` or lists of numbers, which every platform reads in the same way."""
    found: tuple[Iterable[object], ...] = (parsed.minutes, parsed.hours, parsed.days, parsed.months, parsed.weekdays)
    fields = []
    for values, full in zip(found, FULL, strict=True):
        plain = [value for value in values if isinstance(value, int) and value >= 0]
        if plain != list(values):
            raise ConfigError(
                f"The schedule {text!r} uses L, W or #, which Kubeflow and Vertex do not support.", "Name the days."
            )
        numbers = {value % 7 if full == FULL[4] else value for value in plain}
        fields.append("*" if numbers == set(full) else ",".join(str(number) for number in sorted(numbers)))
    if fields[2] != "*" and fields[4] != "*":
        raise ConfigError(
            f"The schedule {text!r} names days of the month and of the week, which platforms combine differently (and, or).",
            "Name one of the two, or create two schedules.",
        )
    return " ".join(fields)


def _short(field: str, full: range) -> str:
    """Return a list of numbers as `*/n` or `a-b` if it is one of these, for short sentences."""
    if field == "*":
        return field
    numbers = [int(number) for number in field.split(",")]
    first, last = numbers[0], numbers[-1]
    if len(numbers) > 2 and numbers == list(range(first, last + 1)):
        return f"{first}-{last}"
    step = numbers[1] - first if len(numbers) > 1 else 0
    return f"*/{step}" if step and len(numbers) > 2 and numbers == list(full[::step]) else field


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(f"There is no time zone {name!r}.", "Use a name such as Europe/Zurich or UTC.") from None
    return name
