"""Requests: which failures are retried, and that nothing is created twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from components.common import requests
from components.common.requests import Failure, RemoteError, RetryingClient


class RefusedError(Exception):
    """A failed request of the client under test."""

    def __init__(self, status: int, received: bool = True) -> None:
        self.failure = Failure(status, f"reason {status}", {}, received)
        super().__init__(status)


def read(error: Exception) -> Failure | None:
    return error.failure if isinstance(error, RefusedError) else None


def answers(*results: Exception | str) -> Callable[[], str]:
    """Return a request that raises or returns these results, one after the other."""
    remaining = iter(results)

    def request() -> str:
        result = next(remaining)
        if isinstance(result, Exception):
            raise result
        return result

    return request


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "FIRST_WAIT_SECONDS", 0.0)


CLIENT = RetryingClient("The service", read, {403: "no permission"})


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_a_read_is_retried_after_temporary_failures(status: int) -> None:
    assert CLIENT.call("list runs", answers(*[RefusedError(status)] * 4, "runs")) == "runs"
    with pytest.raises(RemoteError, match="reason"):
        CLIENT.call("list runs", answers(*[RefusedError(status)] * 5, "runs"))


def test_a_refusal_is_not_retried_and_its_status_is_explained() -> None:
    with pytest.raises(RemoteError, match="The service answered 403 to the request to list runs: no permission") as caught:
        CLIENT.call("list runs", answers(RefusedError(403), "runs"))
    assert caught.value.status == 403


def test_an_exception_of_other_code_is_raised_unchanged() -> None:
    with pytest.raises(ZeroDivisionError):
        CLIENT.call("list runs", answers(ZeroDivisionError()))


def test_credentials_are_renewed_but_not_forever() -> None:
    client = RetryingClient("The service", read, {}, renew=lambda: True)
    assert client.call("list runs", answers(RefusedError(401), "runs")) == "runs"
    with pytest.raises(RemoteError, match="answered 401"):
        client.call("list runs", answers(*[RefusedError(401)] * 5))


@pytest.mark.parametrize("unknown", [RefusedError(500), RefusedError(409), RefusedError(0)])
def test_a_create_with_unknown_outcome_is_looked_for_before_a_retry(unknown: RefusedError) -> None:
    assert CLIENT.create("create a run", answers(unknown), find=lambda: "found") == "found"
    assert CLIENT.create("create a run", answers(unknown, "created"), find=lambda: None) == "created"


def test_a_create_that_the_service_did_not_receive_is_retried() -> None:
    def find() -> str:
        pytest.fail("nothing to look for")

    assert CLIENT.create("create a run", answers(RefusedError(0, received=False), "created"), find) == "created"
