"""Schedules on Kubeflow: its generated client against a server on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.targets import remote
from tests.support.servers.kubeflow_server import tick
from tests.targets.platform_tests import Platform, ScheduleTests


@pytest.mark.usefixtures("compiled_before")
class TestSchedule(ScheduleTests):
    def test_its_runs_have_the_configured_account(self, platform: Platform) -> None:
        words = ["--cron", "0 2 * * *", "--name", "n", "--set", "deploy.service_account=wgan"]
        assert platform.schedule("create", str(platform.config), *words)[0] == 0
        (made,) = platform.server.recurring.values()
        assert made["service_account"] == "wgan"

    def test_schedules_of_one_file_have_their_own_parameters(self, platform: Platform, compiled: Path) -> None:
        """One file trains every night, and at another place on Sundays for longer."""
        assert platform.schedule("create", str(compiled), "--cron", "0 2 * * *", "--name", "nightly")[0] == 0
        words = ["--cron", "0 2 * * sun", "--name", "weekly", "--rounds", "900", "--source", "tfds:mnist"]
        assert platform.schedule("create", str(compiled), *words, "--set", "train.beta_1=0.5")[0] == 0
        assert [each["runtime_config"]["parameters"] for each in platform.server.recurring.values()] == [
            {},
            {"source": "tfds:mnist", "rounds": 900, "overrides": ["train.beta_1=0.5"]},
        ]
        assert len(platform.server.versions) == 1

    def test_the_request(self, platform: Platform) -> None:
        assert platform.create("weekly", cron="30 2 * * mon")[0] == 0
        (made,) = platform.server.recurring.values()
        assert made["trigger"]["cron_schedule"]["cron"] == "0 30 2 * * 1", "KFP's six fields, seconds first"
        assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == ("1", True, "ENABLE")
        assert made["pipeline_version_reference"]["pipeline_version_id"] in platform.server.versions

    def test_start_and_end(self, platform: Platform) -> None:
        words = ["--cron", "0 2 * * *", "--name", "n", "--start", "2099-01-01T00:00", "--end", "2099-02-01T00:00+01:00"]
        code, output = platform.schedule("create", str(platform.config), *words, "--time-zone", "Europe/Zurich",
                              "--cluster-time-zone", "Europe/Zurich")  # fmt: skip
        assert code == 0, output
        assert "Next: 2099-01-01 02:00 CET, " in output
        (made,) = platform.server.recurring.values()
        times = made["trigger"]["cron_schedule"]
        assert times["start_time"].startswith("2098-12-31T23:00:00")
        assert times["end_time"].startswith("2099-01-31T23:00:00")

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["--cron", "0 25 * * *"], "is invalid: "),
            (["--cron", "0 2 * * *", "--time-zone", "Asia/Tokyo"], "reads every schedule in UTC time"),
            (["--cron", "0 2 * * *", "--start", "soon"], "--start soon is not a time."),
            (["--cron", "0 2 * * *", "--end", "2020-01-01"], "--end 2020-01-01 is not after now."),
            (
                ["--cron", "0 2 * * *", "--start", "2099-02-01", "--end", "2099-01-01"],
                "--end 2099-01-01 is not after --start 2099-02-01. No run would ever start.",
            ),
        ],
    )
    def test_invalid_options_are_usage_errors(self, platform: Platform, words: list[str], sentence: str) -> None:
        code, output = platform.schedule("create", str(platform.config), "--name", "n", *words)
        assert code == 2
        assert sentence in output
        assert platform.server.requests == []

    def test_list_and_create_say_the_same(self, platform: Platform) -> None:
        for number, cron in enumerate(["*/5 * * * *", "0 9 * * mon-fri", "0 3 1 */6 *"]):
            code, output = platform.create(f"n{number}", cron=cron)
            assert code == 0, output
            words = output.splitlines()[0].removeprefix(f"Schedule n{number}: ").removesuffix(".")
            assert words in " ".join(platform.schedule("list")[1].split())

    @pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
    def test_a_schedule_is_not_deleted_while_its_run_goes_on(self, platform: Platform, state: str) -> None:
        """On Kubeflow, deleting a schedule ends its runs: Argo's workflows carry an owner reference to it."""
        server = platform.server
        platform.create("n")
        (made,) = server.recurring.values()
        run_id = tick(server, made["recurring_run_id"])
        server.runs[run_id]["state"] = state
        code, output = platform.schedule("delete", "n")
        assert code == 2
        name = server.runs[run_id]["display_name"]
        assert f"Schedule n is paused, but not deleted: its run {name} has not ended, and {platform.service} ends the" in output
        assert (made["status"], list(server.recurring.values())) == ("DISABLED", [made])
        ended = iter(["RUNNING", "RUNNING", "SUCCEEDED"])

        def end(method: str, path: str) -> None:
            if (method, path) == ("GET", "/runs"):
                server.runs[run_id]["state"] = next(ended)

        server.fault = end
        assert platform.schedule("delete", "n", "--wait") == (0, "Deleted n.\n")
        assert (server.recurring, next(ended, None)) == ({}, None)
        assert "orphan" not in server.runs[run_id], "the run ended by itself"

    def test_a_run_that_has_just_begun_is_waited_for(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        """Kubeflow lists a run some seconds after its schedule has started it."""
        waited: list[float] = []
        monkeypatch.setattr(remote, "SETTLE_SECONDS", 12.5)
        monkeypatch.setattr(remote.time, "sleep", waited.append)
        for cron, name in [("* * * * *", "often"), ("0 0 29 2 *", "rare")]:
            platform.create(name, cron=cron)
            assert platform.schedule("delete", name)[0] == 0
        assert waited.count(12.5) == 1

    def test_schedules_of_other_programs_are_listed_as_they_are(self, platform: Platform) -> None:
        recurring: dict[str, Any] = platform.server.recurring
        recurring["a"] = {"recurring_run_id": "a", "display_name": "periodic", "status": "ENABLED",
                          "trigger": {"periodic_schedule": {"interval_second": "60"}}}  # fmt: skip
        recurring["b"] = {"recurring_run_id": "b", "display_name": "odd", "status": "ENABLED",
                          "trigger": {"cron_schedule": {"cron": "30 0 2 ? * 2-6"}}}  # fmt: skip
        code, output = platform.schedule("list")
        assert code == 0
        assert "not a cron schedule: created by another program" in output
        assert "30 0 2 ? * 2-6 (six fields, seconds first)" in output
