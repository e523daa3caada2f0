"""A month of a schedule: thirty daily runs on a changing folder, through Kubeflow's protocol, from the compiled file alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from components.common import requests
from components.registry.registry import Registry
from tests.support.command_line import run
from tests.support.datasets.snapshots import brighter, digits
from tests.support.local_runs import SHORT, wait_for
from tests.support.servers.kubeflow_server import Kubeflow, kubeflow_served, tick

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]
ALWAYS = {"snapshot", "gate", "push", "report"}


class Day(NamedTuple):
    """The result of a day's run: its state on the platform, its summary (empty if none was written), its log."""

    state: str
    summary: dict[str, Any]
    log: str
    folder: Path

    @property
    def steps_done(self) -> set[str]:
        """Return the steps that ran, rather than being taken from the cache."""
        return {step for step, row in self.summary["steps"].items() if row["status"] == "succeeded"}


class Month:
    """A schedule, the folder that it reads, and the results of its days."""

    def __init__(self, root: Path, address: str, kubeflow: Kubeflow) -> None:
        self.root, self.address, self.kubeflow = root, address, kubeflow
        self.images, self.registry = root / "runs" / "images", root / "runs" / "registry"
        self.taken = 0
        self.days: list[Day] = []

    def schedule(self, *overrides: str) -> None:
        """Replace the schedule by one with these settings."""
        for found in list(self.kubeflow.recurring.values()):
            code, said = run("schedule", "delete", found["display_name"], "--host", self.address)
            assert code == 0, said
        file = self.root / "nightly.toml"
        file.write_text(f'[run]\ndir = "{self.root / "runs"}"\n[deploy]\nretries = 0\nvolume_claim = "wgan"\n')
        settings = [*SHORT, f"ingest.source=images:{self.images}", "ingest.labels_from_folders=true", *overrides]
        words = [word for setting in settings for word in ("--set", setting)]
        code, said = run(
            "schedule", "create", str(file), "--cron", "0 2 * * *", "--name", "nightly", "--host", self.address, *words
        )
        assert code == 0, said
        assert said.startswith("Schedule nightly: At 02:00 every day, UTC time.")

    def add(self, count: int) -> None:
        """Add more digits to the folder."""
        images, labels = digits()
        for number in range(self.taken, self.taken + count):
            write(self.images, number, int(labels[number]), images[number])
        self.taken += count

    def begin(self) -> str:
        """Trigger the schedule; return the run's id."""
        (schedule,) = self.kubeflow.recurring
        return tick(self.kubeflow, schedule)

    def day(self, run_id: str = "") -> Day:
        """Trigger the schedule, unless a run is named, and wait until the run has ended."""
        run_id = run_id or self.begin()
        for thread in self.kubeflow.threads:
            thread.join()
        folder = self.kubeflow.folder / run_id
        file = self.root / "runs" / self.kubeflow.runs[run_id]["display_name"] / "summary.json"
        summary = json.loads(file.read_bytes()) if file.is_file() else {}
        self.days.append(Day(self.kubeflow.runs[run_id]["state"], summary, (folder / "log").read_text(), folder))
        return self.days[-1]

    def champion(self) -> str:
        """Return the version in service, after checking every file of it."""
        registry = Registry(self.registry)
        champion = registry.champion()
        if champion is None:
            return ""
        with registry.open_version(champion.version):
            return champion.version

    def quiet_days(self, count: int) -> None:
        """Run days on which nothing has changed."""
        before = self.champion()
        for _ in range(count):
            day = self.day()
            assert day.state == "SUCCEEDED", day.log
            assert day.summary["nothing_new"] is True
            assert day.steps_done <= {"gate", "push"}
            assert "Nothing new: " in report_of(day)
            assert self.champion() == before


def write(folder: Path, number: int, label: int, image: np.ndarray) -> None:
    (folder / str(label)).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0]).save(folder / str(label) / f"{number:05d}.png")


def report_of(day: Day) -> str:
    (page,) = day.folder.glob("steps/*/report/page")
    return page.read_text()


@pytest.fixture
def month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Month]:
    monkeypatch.setattr(requests, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "server").mkdir()
    with kubeflow_served(tmp_path / "server") as (address, kubeflow):
        kubeflow.execute = True
        yield Month(tmp_path, address, kubeflow)


def test_thirty_days(month: Month) -> None:
    usual = ["train.start_from=champion"]
    month.schedule(*usual)
    month.add(1300)
    first = month.day()  # 1
    assert first.state == "SUCCEEDED", first.log
    assert (first.summary["push"]["decision"], month.champion()) == ("published", "v0001")
    assert "Not started from the champion: there is no champion yet" in first.log
    month.quiet_days(3)  # 2 to 4

    month.add(100)
    run_id = month.begin()
    assert month.begin() == "", "no second run starts while the first one is active"
    grown = month.day(run_id)  # 5
    assert grown.state == "SUCCEEDED", grown.log
    assert grown.summary["nothing_new"] is False
    assert grown.summary["train"]["started_from"] == "v0001"
    assert grown.summary["ingest"]["read"] == 1400
    month.quiet_days(3)  # 6 to 8

    bad = [month.images / "0" / f"broken-{number}.png" for number in range(200)]
    for file in bad:
        file.write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    before = month.champion()
    for _ in range(2):  # 9 and 10: a refusal is not cached
        refused = month.day()
        assert refused.state == "FAILED"
        assert (refused.summary["exit_code"], refused.summary["error"]["step"]) == (3, "ingest")
        assert "200 of 1600 files could not be read as images" in refused.summary["error"]["problem"]
        assert "ingest failed" in report_of(refused)
        assert month.champion() == before
    for file in bad:
        file.unlink()
    month.add(60)
    repaired = month.day()  # 11
    assert repaired.state == "SUCCEEDED", repaired.log
    assert repaired.summary["ingest"]["read"] == 1460
    month.quiet_days(4)  # 12 to 15

    saved = month.root / "saved"
    shutil.copytree(month.images, saved)
    images, labels = digits()
    for number, image in enumerate(brighter(images)[: month.taken]):
        write(month.images, number, int(labels[number]), image)
    drifted = month.day()  # 16
    assert drifted.state == "FAILED"
    assert (drifted.summary["exit_code"], drifted.summary["error"]["step"]) == (3, "validate")
    assert "It was refused." in report_of(drifted)
    shutil.rmtree(month.images)
    shutil.copytree(saved, month.images)  # other modification times, the same content
    month.quiet_days(3)  # 17 to 19

    month.schedule(
        "train.rounds=5", "train.log_every_rounds=5", "train.checkpoint_every_rounds=5", "train.sample_every_rounds=5"
    )
    before = month.champion()
    worse = month.day()  # 20: hardly trained
    assert worse.state == "SUCCEEDED", worse.log
    assert (worse.summary["push"]["decision"], month.champion()) == ("kept", before)
    assert "Not published: " in report_of(worse)
    month.schedule(*usual)
    month.quiet_days(3)  # 21 to 23: nothing new under the former settings

    month.add(50)
    run_id = month.begin()
    checkpoints = month.root / "runs" / ".work" / "checkpoints"
    known = set(checkpoints.glob("*/round-*/manifest.json"))
    wait_for(lambda: bool(set(checkpoints.glob("*/round-*/manifest.json")) - known), 300)
    os.killpg(month.kubeflow.processes[run_id].pid, signal.SIGKILL)
    kill_children_of(run_id)
    crashed = month.day(run_id)  # 24
    assert (crashed.state, crashed.summary) == ("FAILED", {})
    after = month.day()  # 25: the images are unchanged, and no work was lost
    assert after.state == "SUCCEEDED", after.log
    assert after.summary["ingest"]["read"] == 1510
    assert after.summary["steps"]["ingest"]["status"] == "cached"
    assert after.summary["train"]["resumed_from_round"] >= 10
    assert after.summary["train"]["started_from"] == before
    month.quiet_days(5)  # 26 to 30

    assert len(month.days) == 30
    assert threading.active_count() < 50
    trained = [first, grown, repaired, worse, after]
    assert sum(day.summary.get("nothing_new", False) for day in month.days) == 30 - len(trained) - 4
    decisions = [json.loads(file.read_bytes()) for file in (month.registry / "decisions").iterdir()]
    assert len(decisions) == len(trained), "exactly one decision for each model"
    published = sorted(each["version"] for each in decisions if each["decision"] == "published")
    registry = Registry(month.registry)
    assert registry.versions(registry.state()) == dict.fromkeys(published, True)
    assert {day.summary["push"]["decision"] for day in trained} == {"published", "kept"}
    assert month.champion() == published[-1]
    pointers = [json.loads(file.read_bytes()) for file in sorted((month.registry / "champion").iterdir())]
    assert [pointer["version"] for pointer in pointers] == published


def kill_children_of(run_id: str) -> None:
    """Kill the steps of a run too, which KFP starts in new sessions, as if the machine had failed."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if run_id.encode() in words and int(entry.name) != os.getpid():
            os.kill(int(entry.name), signal.SIGKILL)
