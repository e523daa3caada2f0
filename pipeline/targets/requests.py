"""Asking a platform: every request bounded, what passes by itself asked again, and nothing made twice."""

from __future__ import annotations

import datetime
import email.utils
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from components.common.addresses import first_line
from components.common.errors import PipelineError
from components.common.journal import STEPS
from pipeline.cron import Cron

T = TypeVar("T")
TRIES, REQUEST_SECONDS, MOST_SECONDS = 5, 60.0, 120.0
POLL_SECONDS, FIRST_SECONDS = 5.0, 1.0
BUSY, BROKEN = (429,), (500, 502, 503, 504)  # after the second an asking may be repeated, a making only when it is looked for
TASKS = {"snapshot", *STEPS, "tpu_check", "report"}
SKEW_SECONDS = 300.0  # by which tokens are refused


class RemoteError(PipelineError):
    """The platform refused (`status` is HTTP's) or could not be reached."""

    def __init__(self, problem: str, cure: str = "", status: int = 0) -> None:
        self.status = status
        super().__init__(problem, cure)


class LostError(Exception):
    """A request whose outcome nobody knows: it may have been done."""


class Submitted(NamedTuple):
    """A run on a platform."""

    run_id: str
    name: str
    link: str


class Outcome(NamedTuple):
    """How a run ended: its state as the platform names it, the steps that failed, and what the platform says of it."""

    state: str
    failed: tuple[str, ...]
    message: str

    @property
    def succeeded(self) -> bool:
        """Whether the run and every step of it did: an exit handler that succeeds must not hide a step that failed."""
        return self.state == "SUCCEEDED" and not self.failed


class Scheduled(NamedTuple):
    """A schedule on a platform: `cron` is None where it is none of ours, `words` say then what it is."""

    schedule_id: str
    name: str
    on: bool
    cron: Cron | None
    words: str


class Answer(NamedTuple):
    """A request that was not done: HTTP's status (0: no answer came), the reason, headers, and whether it ever arrived."""

    status: int
    said: str
    headers: Mapping[str, str]
    arrived: bool = True


class Asker:
    """Asks one platform at `place`.

    `read` turns an exception of its client into an Answer (None: not one of a request), `renew` fetches fresh credentials and
    says whether they are others, `meanings` say what a status means there.
    """

    def __init__(
        self,
        place: str,
        read: Callable[[Exception], Answer | None],
        meanings: Mapping[int, str],
        renew: Callable[[], bool] = bool,
    ) -> None:
        self.place, self._read, self._meanings, self._renew = place, read, meanings, renew

    def ask(self, what: str, call: Callable[[], T], *, making: bool = False) -> T:
        """Return the answer; asks again, at most 5 times, where that cannot do a thing twice. Raises Remote- and LostError."""
        for turn in range(1, TRIES + 1):
            try:
                return call()
            except Exception as error:
                answer = self._read(error)
                if answer is None:
                    raise
                if making and self._may_be_done(answer):
                    raise LostError(answer.said) from None
                if answer.status == 401 and self._renew():
                    continue
                if answer.status not in (0, *BUSY, *BROKEN) or turn == TRIES:
                    raise self._refused(what, answer) from None
            time.sleep(_seconds_to_wait(answer, FIRST_SECONDS * 2 ** (turn - 1)))
        raise AssertionError("the last turn returns or raises")

    def make(self, what: str, make: Callable[[], T], find: Callable[[], T | None]) -> T:
        """Make a thing once: where the outcome of a request is not known, or it is there already, it is looked for."""
        for _ in range(TRIES):
            try:
                return self.ask(what, make, making=True)
            except LostError as error:
                if (found := find()) is not None:
                    return found
                problem = str(error)
        raise RemoteError(f"{self.place} cannot {what}: {problem}.", "Nothing was made twice; run again.")

    def _may_be_done(self, answer: Answer) -> bool:
        return answer.status in (*BROKEN, 409) or (answer.status == 0 and answer.arrived)

    def _refused(self, what: str, answer: Answer) -> RemoteError:
        if not answer.status:
            return RemoteError(f"{self.place} cannot be reached to {what}: {answer.said}.", "Look at the address.")
        meaning = self._meanings.get(answer.status, answer.said)
        if answer.status == 401 and (text := _clock_text(answer.headers)):
            meaning = f"{meaning}; {text}"
        return RemoteError(
            f"{self.place} answered {answer.status} when asked to {what}: {meaning}.", "Then run again.", answer.status
        )


def not_reached(error: Exception, *, arrived: bool) -> Answer:
    """Return the answer that never came."""
    return Answer(0, first_line(error), {}, arrived)


def is_step(name: str) -> bool:
    """Whether a task is one of our steps, and not one that the platform adds (root, exit-handler-1, train-driver, executor)."""
    return name.replace("-", "_") in TASKS


def ended_with(state: str, tasks: Mapping[str, str], message: str) -> Outcome:
    """Return the outcome of a run that has ended, from the states of its tasks; the platform's own count where none is ours."""
    failed = [name for name, each in tasks.items() if each in ("FAILED", "CANCELED", "CANCELLED")]
    return Outcome(state, tuple([name for name in failed if is_step(name)] or failed), message)


def _seconds_to_wait(answer: Answer, otherwise: float) -> float:
    asked = str(answer.headers.get("Retry-After", ""))
    return min(float(asked), MOST_SECONDS) if asked.isdigit() else otherwise


def _clock_text(headers: Mapping[str, Any]) -> str:
    """Return a sentence when the clock here and the platform's are so far apart that tokens are refused for it."""
    try:
        there = email.utils.parsedate_to_datetime(str(headers.get("Date", "")))
    except ValueError:
        return ""
    if there.tzinfo is None:
        return ""
    apart = (datetime.datetime.now(datetime.UTC) - there).total_seconds()
    if abs(apart) < SKEW_SECONDS:
        return ""
    return f"the clock here is {abs(apart) / 60:.0f} minutes {'ahead of' if apart > 0 else 'behind'} the platform's: set it"
