"""Requests to a remote service: each has a timeout, temporary failures are retried, and nothing is created twice.

A general retry library would repeat a create that may have succeeded; this client looks for its result first
(tests/unit/common/test_requests.py).
"""

from __future__ import annotations

import datetime
import email.utils
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from components.common.errors import PipelineError, first_line

T = TypeVar("T")
TRIES, REQUEST_SECONDS, LONGEST_WAIT_SECONDS = 5, 60.0, 120.0
FIRST_WAIT_SECONDS = 1.0
# After these, a read is retried. A create may have succeeded despite a 5xx: look for its result before repeating it.
BUSY, SERVER_ERRORS = (429,), (500, 502, 503, 504)
CLOCK_SKEW_SECONDS = 300.0  # services refuse tokens when the clocks differ by more


class RemoteError(PipelineError):
    """The service refused a request (`status` is the HTTP status) or could not be reached (0)."""

    def __init__(self, problem: str, cure: str = "", status: int = 0) -> None:
        self.status = status
        super().__init__(problem, cure)


class UnknownOutcomeError(Exception):
    """A create request got no usable answer: it may or may not have succeeded."""


class Failure(NamedTuple):
    """A failed request: HTTP status (0: no answer), reason, headers, and whether the service may have received the request."""

    status: int
    reason: str
    headers: Mapping[str, str]
    received: bool = True


class RetryingClient:
    """Sends requests to one service, named `service` in errors.

    `read` turns an exception of the underlying client into a Failure (None: the exception is not about a request), `renew`
    fetches new credentials and returns whether they changed, `meanings` explain a status of this service.
    """

    def __init__(
        self,
        service: str,
        read: Callable[[Exception], Failure | None],
        meanings: Mapping[int, str],
        renew: Callable[[], bool] = bool,
    ) -> None:
        self.service, self._read, self._meanings, self._renew = service, read, meanings, renew

    def call(self, what: str, request: Callable[[], T], *, creates: bool = False) -> T:
        """Return the result of `request`, tried up to 5 times; `what` completes "the request to …" in errors.

        A request that `creates` something is not repeated once it may have succeeded: that raises UnknownOutcomeError. Raises
        RemoteError for every other failure.
        """
        for attempt in range(1, TRIES + 1):
            try:
                return request()
            except Exception as error:
                failure = self._read(error)
                if failure is None:
                    raise
                if creates and _may_be_done(failure):
                    raise UnknownOutcomeError(failure.reason) from None
                if failure.status == 401 and attempt < TRIES and self._renew():
                    continue
                if failure.status not in (0, *BUSY, *SERVER_ERRORS) or attempt == TRIES:
                    raise self._error(what, failure) from None
            time.sleep(_seconds_to_wait(failure, FIRST_WAIT_SECONDS * 2 ** (attempt - 1)))
        raise AssertionError("the last attempt returns or raises")

    def create(self, what: str, request: Callable[[], T], find: Callable[[], T | None]) -> T:
        """Create something once: when the outcome of a request is unknown, `find` looks for its result before a retry."""
        for _ in range(TRIES):
            try:
                return self.call(what, request, creates=True)
            except UnknownOutcomeError as error:
                if (found := find()) is not None:
                    return found
                problem = str(error)
        raise RemoteError(f"{self.service} cannot {what}: {problem}.", "Nothing was created twice; run again.")

    def _error(self, what: str, failure: Failure) -> RemoteError:
        if not failure.status:
            return RemoteError(f"{self.service} cannot be reached to {what}: {failure.reason}.", "Check the URL.")
        meaning = self._meanings.get(failure.status, failure.reason)
        if failure.status == 401 and (text := _clock_text(failure.headers)):
            meaning = f"{meaning}; {text}"
        return RemoteError(
            f"{self.service} answered {failure.status} to the request to {what}: {meaning}.", "Then run again.", failure.status
        )


def no_answer(error: Exception, *, received: bool) -> Failure:
    """Return the failure of a request that got no answer."""
    return Failure(0, first_line(error), {}, received)


def _may_be_done(failure: Failure) -> bool:
    return failure.status in (*SERVER_ERRORS, 409) or (failure.status == 0 and failure.received)


def _seconds_to_wait(failure: Failure, otherwise: float) -> float:
    wanted = str(failure.headers.get("Retry-After", ""))
    return min(float(wanted), LONGEST_WAIT_SECONDS) if wanted.isdigit() else otherwise


def _clock_text(headers: Mapping[str, Any]) -> str:
    """Return a sentence if the clocks differ so much that the service refuses tokens, else an empty string."""
    try:
        there = email.utils.parsedate_to_datetime(str(headers.get("Date", "")))
    except ValueError:
        return ""
    if there.tzinfo is None:
        return ""
    apart = (datetime.datetime.now(datetime.UTC) - there).total_seconds()
    if abs(apart) < CLOCK_SKEW_SECONDS:
        return ""
    return f"the clock here is {abs(apart) / 60:.0f} minutes {'ahead of' if apart > 0 else 'behind'} the service's: correct it"
