"""What the clients of Kubeflow Pipelines and Vertex AI share: runs, schedules, and waiting until a run has ended."""

from __future__ import annotations

import datetime
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from components.common.errors import ConfigError, first_line
from components.common.journal import SNAPSHOT, STEPS
from components.common.requests import RemoteError, RetryingClient
from pipeline.config import RunConfig
from pipeline.cron import Cron, parse_cron

T = TypeVar("T")
POLL_SECONDS = 5.0
JUST_FIRED_SECONDS = 120.0
SETTLE_SECONDS = 15.0  # a run that a schedule started just before it was paused is in the platform's lists after this time
TOLD_AFTER_SECONDS = 30.0  # why pods wait is asked this often
GIVEN_UP_AFTER_SECONDS = 300.0  # a pod that waits for something that somebody must create or correct
CANCELLED_AFTER_SECONDS = 600.0
TASKS = {SNAPSHOT, *STEPS, "tpu_check", "report"}
CANCELLED = ("CANCELED", "CANCELLED")
FAILED = ("FAILED", *CANCELLED)
ENDED = ("SUCCEEDED", "SKIPPED", *FAILED)
CANCELLING = ("CANCELING", "CANCELLING")
DRIVER = "-driver"  # Kubeflow runs one before each step


class CompiledPipeline(NamedTuple):
    """A compiled file, its config, and the parameters of a run that differ from the defaults in the file."""

    file: Path
    config: RunConfig
    parameters: Mapping[str, Any]


class Attempt(NamedTuple):
    """One attempt of a step, in a pod of its own: its number from 1, and its state in the platform's words."""

    step: str
    number: int
    state: str


class PodProblem(NamedTuple):
    """Why an attempt of a step waits or failed, in a sentence that begins with the step, and what to do.

    `kind` is the same for the same reason; `lasting`: waiting longer does not help.
    """

    step: str
    attempt: int
    waits: bool
    kind: str
    problem: str
    cure: str
    lasting: bool


class RunState(NamedTuple):
    """The state of a run and of each of its tasks, in the platform's words, and its error message.

    A step's state is that of its last attempt. `attempts` has those of the step that is running, as far as the platform tells
    them; `cancelled` is known only if the run was cancelled while someone waited for it. `waits`: a pod of the run waits.
    `problem` is why it failed or, if it has not ended, why it cannot go on, if the platform tells.
    """

    state: str
    tasks: dict[str, str]
    message: str
    attempts: Sequence[Attempt] = ()
    cancelled: bool = False
    waits: bool = False
    problem: PodProblem | None = None

    @property
    def failed(self) -> list[str]:
        """The steps that failed."""
        return [name for name, state in self.tasks.items() if is_step(name) and state in FAILED]

    @property
    def not_started(self) -> list[str]:
        """The steps that could not start: Kubeflow's driver of the step failed."""
        failed = [name.removesuffix(DRIVER) for name, state in self.tasks.items() if name.endswith(DRIVER) and state in FAILED]
        return [step for step in failed if is_step(step) and step not in self.failed]

    @property
    def succeeded(self) -> bool:
        """Whether the run succeeded and no step failed: a successful exit handler must not hide a failed step."""
        return self.state == "SUCCEEDED" and not self.failed and not self.not_started

    def explain(self) -> str:
        """Return how the run ended, without a full stop and without the platform's names for what it runs beside the steps."""
        if self.succeeded:
            return "Succeeded"
        if self.state in CANCELLING:
            minutes = CANCELLED_AFTER_SECONDS / 60
            return f"Cancelled, but not ended after {minutes:.0f} minutes; the step report may have no machine to run on"
        if self.cancelled or self.state in CANCELLED:
            return "Cancelled"
        if self.problem and self.state not in ENDED:
            return f"Not waited for any longer: {self.problem.problem}. {self.problem.cure} The run, which goes on then"
        prefix = "Failed, although the platform calls the run succeeded" if self.state == "SUCCEEDED" else "Failed"
        if self.problem:
            return " ".join(filter(None, [f"{prefix}: {self.problem.problem}.", self.problem.cure, "The run"]))
        steps = [*(f"{step} could not start" for step in self.not_started), *(f"{step} failed" for step in self.failed)]
        reasons = [", ".join(steps), first_line(self.message) if self.message else ""]
        problem = ": ".join(reason for reason in reasons if reason) or f"the platform calls the run {self.state.lower()}"
        place = "step" if self.failed else "step's driver" if self.not_started else "run"
        return f"{prefix}: {problem.rstrip('.')}. The log of the {place} has the reason"


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
    runs_end_with_schedule = False
    _client: RetryingClient

    @abstractmethod
    def submit(self, pipeline: CompiledPipeline, name: str, experiment: str) -> str:
        """Start a run and return its id. `name` must be unique, to find the run after a lost answer."""

    @abstractmethod
    def link(self, run_id: str) -> str:
        """Return the URL of a run in the user interface."""

    def join_experiment(self, run_id: str, experiment: str) -> str:  # noqa: ARG002 - a hook
        """Add a run that was started to its experiment where that is a second request; return a sentence if it failed."""
        return ""

    @abstractmethod
    def create_schedule(
        self, pipeline: CompiledPipeline, name: str, experiment: str, cron: Cron, start: str | None, end: str | None
    ) -> PlatformSchedule:
        """Create a schedule: one run at a time, and no runs in place of those that were missed."""

    @abstractmethod
    def switch(self, schedule: PlatformSchedule, *, on: bool) -> None:
        """Resume or pause a schedule; either may be repeated."""

    @abstractmethod
    def _delete(self, schedule: PlatformSchedule) -> object: ...

    @abstractmethod
    def _state(self, run_id: str) -> RunState: ...

    where_pods_are_explained = "the platform's user interface"

    def pod_problems(self, run_id: str) -> list[PodProblem]:  # noqa: ARG002 - a hook
        """Return why pods of a run wait or failed, in the order in which they started, as far as the platform tells."""
        return []

    def _why_failed(self, run_id: str, run: RunState) -> PodProblem | None:
        """Return what is known about the last attempt of the first step that failed, None if nothing is."""
        failed = [*run.not_started, *run.failed]
        of_step = [each for each in self.pod_problems(run_id) if not each.waits and each.step == (failed[0] if failed else "")]
        return of_step[-1] if of_step else None

    @abstractmethod
    def _schedules(self, name: str = "") -> Iterator[PlatformSchedule]:
        """Yield the schedules, with `name` at least those of that name."""

    def wait(self, run_id: str, report: Callable[[str], None]) -> RunState:
        """Wait until a run has ended or was cancelled; `report` gets a line for each step whose state changes.

        A lost attempt, a pod that waits for TOLD_AFTER_SECONDS and a cancellation get a line too. The wait ends early for a
        cancelled run that does not end within CANCELLED_AFTER_SECONDS, and for a run whose pod has waited for
        GIVEN_UP_AFTER_SECONDS for something that somebody must create or correct.
        """
        seen: dict[str, str] = {}
        pods = _PodNews(report, lambda: self.pod_problems(run_id), self.where_pods_are_explained)
        cancelled_at: float | None = None
        while True:
            run = self._state(run_id)
            for name, state in run.tasks.items():
                if is_step(name) and seen.get(name) != state:
                    report(f"{name}: {state.lower()}")
            seen |= run.tasks
            stuck = pods.tell(run)
            if cancelled_at is None and run.state in CANCELLING:
                cancelled_at = time.monotonic()
                report("the run is being cancelled")
            given_up = cancelled_at is not None and time.monotonic() - cancelled_at >= CANCELLED_AFTER_SECONDS
            if run.state in ENDED or given_up or (stuck and cancelled_at is None):
                run = run._replace(tasks=seen, cancelled=cancelled_at is not None, problem=stuck)
                return run if run.succeeded or stuck else run._replace(problem=self._why_failed(run_id, run))
            time.sleep(POLL_SECONDS)

    def schedules(self) -> list[PlatformSchedule]:
        """Return all schedules."""
        return list(self._schedules())

    def schedule(self, name: str) -> PlatformSchedule | None:
        """Return the schedule of this name, None if there is none."""
        return next((each for each in self._schedules(name) if each.name == name), None)

    def delete_schedule(self, schedule: PlatformSchedule, *, wait: bool = False) -> None:
        """Delete a schedule; its runs stay.

        Where deleting it would end a run that is going on, pause the schedule first, so that no other run begins, and wait for
        the run, or raise ConfigError. The schedule then stays paused.
        """
        if self.runs_end_with_schedule:
            self.switch(schedule, on=False)
            if _has_just_fired(schedule):
                time.sleep(SETTLE_SECONDS)
            while active := self.active_runs(schedule):
                if not wait:
                    raise ConfigError(
                        f"Schedule {schedule.name} is paused, but not deleted: its run {active[0]} has not ended, and "
                        f"{self.service} ends the runs of a schedule that is deleted.",
                        "Repeat the command when the run has ended, add --wait, or terminate the run in the user interface.",
                    )
                time.sleep(POLL_SECONDS)
        self._call_or_none(f"delete {schedule.name}", lambda: self._delete(schedule))

    def active_runs(self, schedule: PlatformSchedule) -> list[str]:  # noqa: ARG002 - a hook
        """Return the names of the runs of a schedule that have not ended, where deleting it would end them."""
        return []

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


def _has_just_fired(schedule: PlatformSchedule) -> bool:
    """Return whether a schedule may have started a run that the platform does not list yet."""
    now = datetime.datetime.now(datetime.UTC)
    recent = now - datetime.timedelta(seconds=JUST_FIRED_SECONDS)
    return schedule.on and (schedule.cron is None or schedule.cron.next_times(recent, 1)[0] <= now)


class _PodNews:
    """What is worth saying about the pods of a run: each thing once."""

    def __init__(self, report: Callable[[str], None], ask: Callable[[], list[PodProblem]], elsewhere: str) -> None:
        self._report, self._ask, self._elsewhere = report, ask, elsewhere
        self._waits_since: float | None = None
        self._asked = 0
        self._waited: set[object] = set()  # at the last time of asking
        self._told: dict[object, float] = {}  # when each thing was first told

    def tell(self, run: RunState) -> PodProblem | None:
        """Report attempts that failed while their step goes on, and why pods wait; return why one waits in vain."""
        for attempt in run.attempts:
            if attempt.state == "FAILED" and attempt not in self._told:
                why = [each for each in self._ask() if (each.step, each.attempt) == (attempt.step, attempt.number)]
                self._tell(attempt, why[-1].problem if why else f"{attempt.step}: attempt {attempt.number} was lost or failed")
        if not run.waits:
            self._waits_since, self._asked, self._waited = None, 0, set()
            return None
        now = time.monotonic()
        self._waits_since = now if self._waits_since is None else self._waits_since
        if now - self._waits_since < (self._asked + 1) * TOLD_AFTER_SECONDS:
            return None
        self._asked += 1
        waiting = [each for each in self._ask() if each.waits]
        for each in waiting:
            if each.kind or each[:4] in self._waited:  # without a reason, it may be a pod that has just been created
                self._tell(each[:4], f"{each.problem}. {each.cure}".strip())
        self._waited = {each[:4] for each in waiting}
        if not waiting:
            self._tell(None, f"a step waits for its pod; {self._elsewhere} says why")
        lasting = (each for each in waiting if each.lasting and now - self._told[each[:4]] >= GIVEN_UP_AFTER_SECONDS)
        return next(lasting, None)

    def _tell(self, thing: object, line: str) -> None:
        if thing not in self._told:
            self._told[thing] = time.monotonic()
            self._report(line)


def is_step(task: str) -> bool:
    """Return whether a task is one of our steps; platforms add others (root, exit-handler-1, train-driver, executor)."""
    return task.replace("-", "_") in TASKS
