"""Schedules on Kubeflow: its generated client against a server on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.targets import remote
from tests.support.command_line import run
from tests.support.servers.kubeflow_server import Kubeflow, tick
from tests.targets.platform_tests import Platform, ScheduleTests


def schedule(served: tuple[str, Kubeflow], *words: str) -> tuple[int, str]:
    return run("schedule", *words, "--host", served[0])


@pytest.mark.usefixtures("compiled_before")
class TestSchedule(ScheduleTests):
    def test_its_runs_have_the_configured_account(self, served: tuple[str, Kubeflow], config: Path) -> None:
        words = ["--cron", "0 2 * * *", "--name", "n", "--set", "deploy.service_account=wgan"]
        assert schedule(served, "create", str(config), *words)[0] == 0
        (made,) = served[1].recurring.values()
        assert made["service_account"] == "wgan"

    def test_schedules_of_one_file_have_their_own_parameters(self, served: tuple[str, Kubeflow], compiled: Path) -> None:
        """One file trains every night, and at another place on Sundays for longer."""
        assert schedule(served, "create", str(compiled), "--cron", "0 2 * * *", "--name", "nightly")[0] == 0
        words = ["--cron", "0 2 * * sun", "--name", "weekly", "--rounds", "900", "--source", "tfds:mnist"]
        assert schedule(served, "create", str(compiled), *words, "--set", "train.beta_1=0.5")[0] == 0
        assert [each["runtime_config"]["parameters"] for each in served[1].recurring.values()] == [
            {},
            {"source": "tfds:mnist", "rounds": 900, "overrides": ["train.beta_1=0.5"]},
        ]
        assert len(served[1].versions) == 1

    def test_the_request(self, served: tuple[str, Kubeflow], platform: Platform) -> None:
        assert platform.create("weekly", cron="30 2 * * mon")[0] == 0
        (made,) = served[1].recurring.values()
        assert made["trigger"]["cron_schedule"]["cron"] == "0 30 2 * * 1", "KFP's six fields, seconds first"
        assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == ("1", True, "ENABLE")
        assert made["pipeline_version_reference"]["pipeline_version_id"] in served[1].versions

    def test_start_and_end(self, served: tuple[str, Kubeflow], config: Path) -> None:
        words = ["--cron", "0 2 * * *", "--name", "n", "--start", "2099-01-01T00:00", "--end", "2099-02-01T00:00+01:00"]
        code, output = schedule(served, "create", str(config), *words, "--time-zone", "Europe/Zurich",
                              "--cluster-time-zone", "Europe/Zurich")  # fmt: skip
        assert code == 0, output
        assert "Next: 2099-01-01 02:00 CET, " in output
        (made,) = served[1].recurring.values()
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
    def test_invalid_options_are_usage_errors(
        self, served: tuple[str, Kubeflow], config: Path, words: list[str], sentence: str
    ) -> None:
        code, output = schedule(served, "create", str(config), "--name", "n", *words)
        assert code == 2
        assert sentence in output
        assert served[1].requests == []

    def test_list_and_create_say_the_same(self, served: tuple[str, Kubeflow], config: Path) -> None:
        for number, cron in enumerate(["*/5 * * * *", "0 9 * * mon-fri", "0 3 1 */6 *"]):
            code, output = schedule(served, "create", str(config), "--cron", cron, "--name", f"n{number}")
            assert code == 0, output
            words = output.splitlines()[0].removeprefix(f"Schedule n{number}: ").removesuffix(".")
            assert words in " ".join(schedule(served, "list")[1].split())

    @pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
    def test_a_schedule_is_not_deleted_while_its_run_goes_on(
        self, served: tuple[str, Kubeflow], config: Path, state: str
    ) -> None:
        """On Kubeflow, deleting a schedule ends its runs: Argo's workflows carry an owner reference to it."""
        server = served[1]
        schedule(served, "create", str(config), "--cron", "0 2 * * *", "--name", "n")
        (made,) = server.recurring.values()
        run_id = tick(server, made["recurring_run_id"])
        server.runs[run_id]["state"] = state
        code, output = schedule(served, "delete", "n")
        assert code == 2
        name = server.runs[run_id]["display_name"]
        assert f"Schedule n is paused, but not deleted: its run {name} has not ended, and {served[0]} ends the" in output
        assert (made["status"], list(server.recurring.values())) == ("DISABLED", [made])
        ended = iter(["RUNNING", "RUNNING", "SUCCEEDED"])

        def end(method: str, path: str) -> None:
            if (method, path) == ("GET", "/runs"):
                server.runs[run_id]["state"] = next(ended)

        server.fault = end
        assert schedule(served, "delete", "n", "--wait") == (0, "Deleted n.\n")
        assert (server.recurring, next(ended, None)) == ({}, None)
        assert "orphan" not in server.runs[run_id], "the run ended by itself"

    def test_a_run_that_has_just_begun_is_waited_for(
        self, served: tuple[str, Kubeflow], config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Kubeflow lists a run some seconds after its schedule has started it."""
        waited: list[float] = []
        monkeypatch.setattr(remote, "SETTLE_SECONDS", 12.5)
        monkeypatch.setattr(remote.time, "sleep", waited.append)
        for cron, name in [("* * * * *", "often"), ("0 0 29 2 *", "rare")]:
            schedule(served, "create", str(config), "--cron", cron, "--name", name)
            assert schedule(served, "delete", name)[0] == 0
        assert waited.count(12.5) == 1

    def test_schedules_of_other_programs_are_listed_as_they_are(self, served: tuple[str, Kubeflow]) -> None:
        recurring: dict[str, Any] = served[1].recurring
        recurring["a"] = {"recurring_run_id": "a", "display_name": "periodic", "status": "ENABLED",
                          "trigger": {"periodic_schedule": {"interval_second": "60"}}}  # fmt: skip
        recurring["b"] = {"recurring_run_id": "b", "display_name": "odd", "status": "ENABLED",
                          "trigger": {"cron_schedule": {"cron": "30 0 2 ? * 2-6"}}}  # fmt: skip
        code, output = schedule(served, "list")
        assert code == 0
        assert "not a cron schedule: created by another program" in output
        assert "30 0 2 ? * 2-6 (six fields, seconds first)" in output
