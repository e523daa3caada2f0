"""Tests that the clients of both platforms must pass; each test module supplies the fixture `platform`."""

from __future__ import annotations

import datetime
import email.utils
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.common import requests
from tests.support.command_line import run


@dataclass
class Platform:
    """A platform's server, its name in messages, and the options with which the command line finds it."""

    server: Any
    service: str
    options: list[str]
    config: Path
    token: str
    token_options: list[str]

    def submit(self, *words: str) -> tuple[int, str]:
        """Submit the config; return the exit code and the output."""
        return run("submit", str(self.config), *self.options, *words)

    def schedule(self, *words: str) -> tuple[int, str]:
        return run("schedule", *words, *self.options)

    def create(self, name: str, *words: str, cron: str = "0 2 * * *") -> tuple[int, str]:
        """Create a schedule of the config."""
        return self.schedule("create", str(self.config), "--cron", cron, "--name", name, *words)


class SubmitTests:
    def test_no_wait_and_follow(self, platform: Platform) -> None:
        platform.server.outcome = ("FAILED", {"push": "FAILED"})
        code, output = platform.submit("--no-wait")
        assert (code, len(output.splitlines())) == (0, 1)
        run_id = re.search(r"/runs/(?:details/)?([\w-]+)", output)
        assert run_id
        code, output = run("submit", *platform.options, "--follow", run_id[1])
        assert code == 1
        assert "Failed: push failed." in output

    @pytest.mark.parametrize("status", [500, 502, 503])
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_temporary_errors_are_retried(self, platform: Platform, method: str, status: int) -> None:
        left = [status] * 3
        platform.server.fault = lambda verb, path: (left.pop(), {}) if verb == method and left and path != "/healthz" else None
        code, output = platform.submit()
        assert code == 0, output
        assert left == []
        assert len(platform.server.started) == 1

    def test_retry_after_is_respected(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        waited: list[float] = []
        monkeypatch.setattr(requests.time, "sleep", waited.append)
        left = ["7"] * 4
        platform.server.fault = lambda verb, path: (429, {"Retry-After": left.pop()}) if left else None
        assert platform.submit("--no-wait")[0] == 0
        assert [seconds for seconds in waited if seconds] == [7.0] * 4

    @pytest.mark.parametrize(("minutes", "way"), [(-90, "ahead of"), (90, "behind")])
    def test_a_wrong_clock_is_named(self, platform: Platform, minutes: int, way: str) -> None:
        there = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes)
        platform.server.fault = lambda method, path: (401, {"Date": email.utils.format_datetime(there, usegmt=True)})
        code, output = platform.submit()
        assert code == 1
        assert f"; the clock here is 90 minutes {way} the service's: correct it." in output

    @pytest.mark.parametrize("status", [0, 400, 401, 500])
    def test_the_token_is_never_printed(self, platform: Platform, caplog: pytest.LogCaptureFixture, status: int) -> None:
        platform.server.token = platform.token
        platform.server.fault = lambda method, path: (status, {}) if status and method == "POST" else None
        code, output = platform.submit(*platform.token_options)
        assert code == (1 if status else 0)
        assert platform.token not in output + caplog.text

    def test_a_server_that_does_not_answer_times_out(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(requests, "REQUEST_SECONDS", 0.3)
        monkeypatch.setattr(requests, "TRIES", 2)
        platform.server.delay = lambda method, path: 1.0 if method == "GET" else 0.0
        code, output = platform.submit()
        assert code == 1
        assert f"{platform.service} cannot be reached to " in output
        assert "timed out" in output.lower()

    def test_an_unreachable_server_is_reported(self, platform: Platform) -> None:
        code, output = platform.submit("--host", "http://127.0.0.1:9")
        assert code == 1
        assert " cannot be reached to " in output


class ScheduleTests:
    def test_list_pause_resume_delete(self, platform: Platform) -> None:
        code, output = platform.create("weekly", cron="30 2 * * mon")
        assert code == 0, output
        first, second = output.splitlines()
        assert first == "Schedule weekly: At 02:30 on Monday, UTC time."
        assert re.fullmatch(r"Next: (\d{4}-\d\d-\d\d 02:30 UTC, ){2}\d{4}-\d\d-\d\d 02:30 UTC", second)
        platform.create("hourly", cron="0 * * * *")
        rows = [re.split(r"  +", line.strip()) for line in platform.schedule("list")[1].splitlines()]
        assert rows[0] == ["name", "state", "when", "next"]
        assert rows[1][:3] == ["weekly", "on", "At 02:30 on Monday, UTC time"]
        assert rows[2][0] == "hourly"
        for _ in range(2):
            assert platform.schedule("pause", "weekly") == (0, "Paused weekly.\n"), "twice is once"
            assert platform.server.scheduled() == {"weekly": False, "hourly": True}
        assert re.search(r"weekly +paused", platform.schedule("list")[1])
        assert platform.schedule("resume", "weekly") == (0, "Resumed weekly.\n")
        assert platform.server.scheduled() == {"weekly": True, "hourly": True}
        assert platform.schedule("delete", "weekly") == (0, "Deleted weekly.\n")
        assert platform.server.scheduled() == {"hourly": True}

    def test_names_are_unique_and_must_exist(self, platform: Platform) -> None:
        assert platform.create("n")[0] == 0
        code, output = platform.create("n")
        assert code == 2
        assert f"Schedule n already exists on {platform.service}." in output
        for verb in ("pause", "resume", "delete"):
            code, output = platform.schedule(verb, "other")
            assert code == 2
            assert f"There is no schedule other on {platform.service}. Existing schedules: n." in output
        assert platform.schedule("delete", "n")[0] == 0
        assert platform.schedule("list") == (0, f"No schedules on {platform.service}.\n")

    @pytest.mark.parametrize(("verb", "left"), [("create", {"n": True}), ("delete", {}), ("pause", {"n": False})])
    def test_a_lost_answer_is_recovered(self, platform: Platform, verb: str, left: dict[str, bool]) -> None:
        if verb != "create":
            platform.create("n")
        lost = iter([True])
        platform.server.loses_answer = lambda method, path: (
            method in ("POST", "DELETE") and re.search("schedules|recurringruns", path) and next(lost, False)
        )
        code, output = platform.create("n") if verb == "create" else platform.schedule(verb, "n")
        assert code == 0, output
        assert next(lost, None) is None
        assert platform.server.scheduled() == left
