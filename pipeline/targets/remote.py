"""What the clients of Kubeflow Pipelines and Vertex AI share: runs, schedules, and waiting until a run has ended."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from components.common.errors import ConfigError
from components.common.journal import STEPS
from components.common.requests import RemoteError, RetryingClient
from pipeline.config import RunConfig
from pipeline.cron import Cron, parse_cron

T = TypeVar("T")
POLL_SECONDS = 5.0
TASKS = {"snapshot", *STEPS, "tpu_check", "report"}
FAILED = ("FAILED", "CANCELED", "CANCELLED")
ENDED = ("SUCCEEDED", "SKIPPED", *FAILED)


class RunState(NamedTuple):
    """The state of a run and of each of its tasks, in the platform's words, and its error message."""

    state: str
    tasks: dict[str, str]
    message: str

    @property
    def failed(self) -> list[str]:
        """The steps that failed; tasks that the platform added if none of the steps did."""
        failed = [name for name, state in self.tasks.items() if state in FAILED]
        return [name for name in failed if _is_step(name)] or failed

    @property
    def succeeded(self) -> bool:
        """Whether the run and every step succeeded: a successful exit handler must not hide a failed step."""
        return self.state == "SUCCEEDED" and not self.failed


class PlatformSchedule(NamedTuple):
    """A schedule on a platform, described by `words`; `cron` is None if another program made it in another form."""

    schedule_id: str
    name: str
    on: bool
    cron: Cron | None
    words: str


class RemotePlatform(ABC):
    """A platform that runs compiled pipelines, named `service` in messages.

    Every request has a timeout and is retried by RetryingClient alone. Methods raise RemoteError when the platform refuses a
    request or cannot be reached.
    """

    service: str
    _client: RetryingClient

    @abstractmethod
    def submit(self, file: Path, name: str, experiment: str, config: RunConfig) -> str:
        """Start a run of the compiled `file` and return its id. `name` must be unique, to find the run after a lost answer."""

    @abstractmethod
    def link(self, run_id: str) -> str:
        """Return the URL of a run in the user interface."""

    @abstractmethod
    def create_schedule(
        self, file: Path, name: str, experiment: str, config: RunConfig, cron: Cron, start: str | None, end: str | None
    ) -> PlatformSchedule:
        """Create a schedule: one run at a time, and no runs in place of those that were missed."""

    @abstractmethod
    def switch(self, schedule: PlatformSchedule, *, on: bool) -> None:
        """Resume or pause a schedule; either may be repeated."""

    @abstractmethod
    def _delete(self, schedule: PlatformSchedule) -> object: ...

    @abstractmethod
    def _state(self, run_id: str) -> RunState: ...

    @abstractmethod
    def _schedules(self, name: str = "") -> Iterator[PlatformSchedule]:
        """Yield the schedules, with `name` at least those of that name."""

    def wait(self, run_id: str, report: Callable[[str], None]) -> RunState:
        """Wait until a run has ended or was cancelled; `report` gets a line for each step whose state changes."""
        seen: dict[str, str] = {}
        while True:
            run = self._state(run_id)
            for name, state in run.tasks.items():
                if _is_step(name) and seen.get(name) != state:
                    report(f"{name}: {state.lower()}")
            seen |= run.tasks
            if run.state in ENDED:
                return run._replace(tasks=seen)
            time.sleep(POLL_SECONDS)

    def schedules(self) -> list[PlatformSchedule]:
        """Return all schedules."""
        return list(self._schedules())

    def schedule(self, name: str) -> PlatformSchedule | None:
        """Return the schedule of this name, None if there is none."""
        return next((each for each in self._schedules(name) if each.name == name), None)

    def delete_schedule(self, schedule: PlatformSchedule) -> None:
        """Delete a schedule; its runs stay."""
        self._call_or_none(f"delete {schedule.name}", lambda: self._delete(schedule))

    def _call(self, what: str, request: Callable[[], T]) -> T:
        return self._client.call(what, request)

    def _call_or_none(self, what: str, request: Callable[[], T]) -> T | None:
        """Return the answer, None after a 404: an earlier request whose answer was lost may have deleted it."""
        try:
            return self._call(what, request)
        except RemoteError as error:
            if error.status != 404:
                raise
            return None


def pages(fetch: Callable[[str], tuple[list[T], str]]) -> Iterator[T]:
    """Yield the items of every page; `fetch(token)` returns those of one page and the token of the next ("": none)."""
    token = ""
    while True:
        items, token = fetch(token)
        yield from items
        if not token:
            return


def read_cron(fields: str, zone: str) -> Cron | None:
    """Return the schedule of five fields, None where this program does not write such fields."""
    try:
        return parse_cron(fields, zone)
    except ConfigError:
        return None


def _is_step(task: str) -> bool:
    """Return whether a task is one of our steps; platforms add others (root, exit-handler-1, train-driver, executor)."""
    return task.replace("-", "_") in TASKS
