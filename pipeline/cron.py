"""Cron as everyone writes it, five fields, and as each platform wants it.

Kubeflow Pipelines reads six fields, seconds first (robfig/cron v1), so that `0 2 * * *` is taken there and means minute 2 of
every hour (kubeflow/kubeflow#5306). It has one time zone for the whole cluster (kubeflow/pipelines#4641). Vertex reads five
fields and a time zone before them. Both get the fields spelled out as numbers: neither knows all that cron(8) writes.
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
FULL = (range(60), range(24), range(1, 32), range(1, 13), range(7))


class Cron(NamedTuple):
    """When to run: five fields, each `*` or numbers, the name of a time zone, and the fields as the user wrote them."""

    fields: str
    zone: str
    written: str

    def explain(self) -> str:
        """Return the schedule in words, with its time zone."""
        return f"{CronSim(self.written, _any_time()).explain()}, {self.zone} time"

    def next_times(self, after: datetime.datetime, count: int = 3) -> list[datetime.datetime]:
        """Return the next times after `after` (which has a time zone), in the schedule's own zone."""
        return list(islice(CronSim(self.written, after.astimezone(ZoneInfo(self.zone))), count))

    def for_kubeflow(self, cluster_zone: str) -> str:
        """Return the six fields of KFP. Raises ConfigError when the cluster's clock is of another zone than the schedule."""
        if self.zone != cluster_zone:
            raise ConfigError(
                f"The schedule is in {self.zone} time, and this Kubeflow reads every schedule in {cluster_zone} time.",
                f"Write it in {cluster_zone} time, or set CRON_SCHEDULE_TIMEZONE of the cluster's controller of scheduled "
                f"workflows and deploy.cluster_time_zone to {self.zone}.",
            )
        return f"0 {self.fields}"

    def for_vertex(self) -> str:
        """Return the five fields with the time zone before them."""
        return f"TZ={self.zone} {self.fields}"


def parse_cron(text: str, zone: str = "UTC") -> Cron:
    """Return a schedule from five fields as cron(8) reads them.

    Raises ConfigError for another number of fields, for fields that are wrong or can never come, for what the platforms cannot
    say (L, W, #, or a day of the month *or* of the week), and for an unknown time zone.
    """
    parts = text.split()
    if len(parts) != 5:
        cure = f"Write {FIELDS}, for instance 0 2 * * * for every night at two."
        if len(parts) == 6:
            cure = f"Leave the seconds out: {' '.join(parts[1:])}; Kubeflow's six fields are made from these."
        raise ConfigError(f"The schedule {text!r} has {len(parts)} fields where 5 are read.", cure)
    try:
        parsed = CronSim(text, _any_time())
        next(parsed)
    except (CronSimError, StopIteration) as error:
        why = str(error) or "no such day comes within 50 years"
        raise ConfigError(f"The schedule {text!r} is wrong: {why}.", f"Write {FIELDS}.") from None
    return Cron(_numbers(parsed, text), _known_zone(zone), text)


def _numbers(parsed: CronSim, text: str) -> str:
    """Return the fields as `*` or lists of numbers, which every platform reads alike."""
    found: tuple[Iterable[object], ...] = (parsed.minutes, parsed.hours, parsed.days, parsed.months, parsed.weekdays)
    fields = []
    for values, full in zip(found, FULL, strict=True):
        plain = [value for value in values if isinstance(value, int) and value >= 0]
        if plain != list(values):
            raise ConfigError(f"The schedule {text!r} uses L, W or #, which Kubeflow and Vertex do not know.", "Name the days.")
        numbers = {value % 7 if full == FULL[4] else value for value in plain}
        fields.append("*" if numbers == set(full) else ",".join(str(number) for number in sorted(numbers)))
    if fields[2] != "*" and fields[4] != "*":
        raise ConfigError(
            f"The schedule {text!r} names days of the month and of the week, which platforms join differently (and, or).",
            "Name one of the two; make two schedules for both.",
        )
    return " ".join(fields)


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(f"There is no time zone {name!r}.", "Use a name such as Europe/Zurich or UTC.") from None
    return name


def _any_time() -> datetime.datetime:
    return datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
