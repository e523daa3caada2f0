"""Tests of retries that both platform clients must pass; each test module supplies `platform_submit` and `served`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from components.common import requests

Submit = Callable[..., tuple[int, str]]


class RetryTests:
    @pytest.mark.parametrize("status", [500, 502, 503])
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_temporary_errors_are_retried(
        self, platform_submit: Submit, served: tuple[str, Any], method: str, status: int
    ) -> None:
        left = [status] * 3
        served[1].fault = lambda verb, path: (left.pop(), {}) if verb == method and left and path != "/healthz" else None
        code, output = platform_submit()
        assert code == 0, output
        assert left == []
        assert len(served[1].started) == 1

    def test_retry_after_is_respected(
        self, platform_submit: Submit, served: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waited: list[float] = []
        monkeypatch.setattr(requests.time, "sleep", waited.append)
        left = ["7"] * 4
        served[1].fault = lambda verb, path: (429, {"Retry-After": left.pop()}) if left else None
        assert platform_submit("--no-wait")[0] == 0
        assert [seconds for seconds in waited if seconds] == [7.0] * 4
