"""The train step is killed, terminated or runs out of disk space, and the next process resumes.

In every case the training must end like one that was not disturbed: the same arrays in the last checkpoint, bit for bit, the
same metrics.jsonl except for the seconds, and the same sample grids, byte for byte.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest

from components.common.artifacts import read_manifest
from tests.support.datasets.training_data import write_digits
from tests.support.local_runs import ROOT, wait_for

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]

LANES, CHAINS, KILLS = 2, 2, 5  # at random moments: two trainings at a time, 20 kills in all
SEED = 20240607
SETTINGS: dict[str, Any] = {
    "rounds": 400, "rounds_per_call": 2, "log_every_rounds": 10, "checkpoint_every_rounds": 4, "sample_every_rounds": 20,
    "global_batch_size": 8, "n_critic": 2, "latents": 8, "generator_channels": 4, "critic_channels": 4,
    "precision": "float32",  # "auto" measures the machine, and could differ between two trainings that are compared
}  # fmt: skip


class Training:
    """A training by `python -m components.train` in its own folder, which can be started repeatedly."""

    processes: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, folder: Path, data: tuple[Path, Path], **changes: Any) -> None:
        self.folder, self.starts = folder, 0
        self.out = folder / "out" / "model"
        folder.mkdir(parents=True)
        (folder / "out").mkdir()
        values = {name: json.dumps(value) for name, value in {**SETTINGS, **changes}.items()}
        (folder / "train.toml").write_text("[train]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
        paths = {"config": folder / "train.toml", "dataset": data[0], "validation": data[1], "out": self.out}
        paths["work-dir"] = folder / "work"
        words = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
        self.command = [sys.executable, "-m", "components.train", *words]

    def start(self) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to a file, so that no pipe can fill up."""
        self.starts += 1
        with self.printed_file().open("wb") as stream:
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
            self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=environment)
        self.processes.append(self.process)
        return self.process

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; fail if the last process ends first."""
        wait_for(lambda: condition() or self.process.poll() is not None, seconds=600.0)
        assert condition(), self.printed()

    def printed_file(self) -> Path:
        return self.folder / f"printed-{self.starts:02d}.txt"

    def printed(self) -> str:
        """Return what the last process printed."""
        return self.printed_file().read_text()

    def finish(self) -> None:
        """Start a process and wait until it succeeds."""
        assert self.start().wait(timeout=600) == 0, self.printed()

    def checkpoints(self) -> list[Path]:
        return sorted(file.parent for file in self.folder.glob("work/checkpoints/*/round-*/manifest.json"))

    def rounds_saved(self) -> int:
        """Return the number of rounds in the last checkpoint."""
        return max((int(path.name.removeprefix("round-")) for path in self.checkpoints()), default=0)

    def has_ticked(self) -> bool:
        """Return whether the last process has finished a host call; the first one includes compilation."""
        return "… " in self.printed()

    def unfinished(self) -> list[Path]:
        """Return half-written files, and checkpoints and models that are half-written or half-removed."""
        artifacts = [*self.folder.glob("work/checkpoints/*/round-*"), *self.folder.glob("out/model")]
        # Unlike Path.glob, this ignores folders that are removed meanwhile.
        files = glob.glob(f"{self.folder}/**/.*.tmp", recursive=True)  # noqa: PTH207
        return [*map(Path, files), *(path for path in artifacts if not (path / "manifest.json").exists())]


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    yield
    for process in Training.processes:
        if process.poll() is None:
            kill(process)
    Training.processes.clear()


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Send SIGKILL; return whether it ended the process."""
    process.kill()
    return process.wait() == -signal.SIGKILL


def progress_at_kill(training: Training) -> str:
    """Describe how far a killed process had come and what it was writing."""
    ticks = re.findall(r"^… (\d+)/", training.printed(), re.MULTILINE)
    before = "before the first round" if "»" in training.printed() else "start-up"
    writing = ", ".join(path.name.split(".")[1] if path.name.startswith(".") else path.name for path in training.unfinished())
    return (f"round {ticks[-1]}" if ticks else before) + (f" writing {writing}" if writing else "")


def assert_same(one: Training, other: Training) -> None:
    """Assert that two finished trainings have the same results."""
    assert other.unfinished() == []
    for training in (one, other):
        read_manifest(training.out, "model")
        for path in training.checkpoints():
            read_manifest(path, "checkpoint")
    assert other.checkpoints()[-1].name == one.checkpoints()[-1].name == f"round-{SETTINGS['rounds']:08d}"
    with np.load(one.checkpoints()[-1] / "state.npz") as expected, np.load(other.checkpoints()[-1] / "state.npz") as got:
        assert sorted(expected.files) == sorted(got.files)
        for name in expected.files:
            assert expected[name].tobytes() == got[name].tobytes(), name
    assert metrics(other) == metrics(one)
    assert len(metrics(one)) == SETTINGS["rounds"] // SETTINGS["log_every_rounds"]
    grids = {path.name: path.read_bytes() for path in (one.out / "samples").iterdir()}
    assert len(grids) == 2 + SETTINGS["rounds"] // SETTINGS["sample_every_rounds"]
    assert {path.name: path.read_bytes() for path in (other.out / "samples").iterdir()} == grids


def metrics(training: Training) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (training.out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


class Reference(NamedTuple):
    """A training that was not disturbed, with the seconds from its start to its first rounds and to its end."""

    training: Training
    start_seconds: float
    seconds: float

    def life_seconds(self, rounds_done: int) -> float:
        """Return how long a process runs that resumes after `rounds_done`."""
        return self.start_seconds + (self.seconds - self.start_seconds) * (1.0 - rounds_done / SETTINGS["rounds"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_digits(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    """Return references for one and two replicas, trained at the same time, as the killed trainings are."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def train(devices: str) -> Reference:
        training = Training(folder / devices.replace(":", ""), data, devices=devices)
        started = time.monotonic()
        process = training.start()
        training.wait_until(training.has_ticked)
        start_seconds = time.monotonic() - started
        assert process.wait(timeout=600) == 0, training.printed()
        return Reference(training, start_seconds, time.monotonic() - started)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(("cpu:1", "cpu:2"), pool.map(train, ("cpu:1", "cpu:2")), strict=True))


def test_kill_9_at_20_random_moments(data: tuple[Path, Path], undisturbed: dict[str, Reference], tmp_path: Path) -> None:
    """The moments are uniform over the life of the process, from its start to the end of the export.

    A chain is one training that is killed and restarted several times. After the last kill it runs to its end and is compared.
    """
    reference = undisturbed["cpu:1"]

    def lane(number: int) -> list[str]:
        moments, killed = random.Random(SEED + number), list[str]()
        trainings = (Training(tmp_path / f"lane-{number}-chain-{chain}", data) for chain in itertools.count(1))
        training = next(trainings)
        while len(killed) < CHAINS * KILLS:
            life = reference.life_seconds(training.rounds_saved())
            process, moment = training.start(), moments.uniform(0.0, life)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=moment)
            if process.poll() is None and kill(process):  # it may have ended just before the signal
                killed.append(f"{training.folder.name}: at {moment:4.1f} s of {life:.1f}: {progress_at_kill(training)}")
                if len(killed) % KILLS:
                    continue
                training.finish()
            assert process.returncode in (0, -signal.SIGKILL), training.printed()
            assert_same(reference.training, training)
            training = next(trainings)
        return killed

    with ThreadPoolExecutor(LANES) as pool:
        killed = [line for lines in pool.map(lane, range(LANES)) for line in lines]
    print(*killed, sep="\n")
    assert len(killed) == 20
    assert any("start-up" in line for line in killed)
    assert any(": round" in line for line in killed)


# Stages of writing a checkpoint or the model, each with what must be found among the unfinished files to trigger the kill.
CHECKPOINT_STAGES: dict[str, Callable[[Training, Path], bool]] = {
    "a checkpoint's folder": lambda _, path: path.name.startswith("round-"),
    "its state": lambda _, path: (path / "state.npz").exists(),
    "its manifest": lambda _, path: path.name.startswith(".manifest.json."),
    "removal of an old one": lambda training, path: path.name.startswith("round-") and path < training.checkpoints()[-1],
}
MODEL_STAGES: dict[str, Callable[[Training, Path], bool]] = {
    "the model": lambda _, path: path.name == "model",
    "the model's graph": lambda _, path: (path / "saved_model" / "saved_model.pb").exists(),
}


def test_kill_9_while_something_is_written(data: tuple[Path, Path], undisturbed: dict[str, Reference], tmp_path: Path) -> None:
    """One and two replicas are killed in every stage in turn. Half-written folders appear, and are gone at the end."""

    def chain(devices: str) -> list[str]:
        training, report = Training(tmp_path / devices.replace(":", ""), data, devices=devices), []
        moments = random.Random(SEED)
        for stage, is_reached in {**CHECKPOINT_STAGES, **MODEL_STAGES}.items():
            process = training.start()
            if stage in CHECKPOINT_STAGES:  # not always the first checkpoint
                training.wait_until(training.has_ticked)
                time.sleep(moments.uniform(0.0, 0.5))
            while not any(is_reached(training, path) for path in training.unfinished()) and process.poll() is None:
                time.sleep(0.0002)
            assert kill(process), training.printed()
            report.append(f"{devices} aimed at {stage}: {progress_at_kill(training)}")
        training.finish()
        assert_same(undisturbed[devices].training, training)
        return report

    with ThreadPoolExecutor(2) as pool:
        report = [line for lines in pool.map(chain, ("cpu:1", "cpu:2")) for line in lines]
    print(*report, sep="\n")
    assert sum("writing round-" in line for line in report) >= 2, report
    assert sum("writing model" in line for line in report) >= 2, report


def test_sigterm_saves_within_5_seconds_of_the_end_of_the_call(data: tuple[Path, Path], tmp_path: Path) -> None:
    """A checkpoint of these networks has more than 100 MB. The end of the host call cannot be seen from outside, so the limit
    is 5 s plus the longest call so far; a call is one round. Time spent waiting for a CPU does not count.
    """
    big = {"generator_channels": 256, "critic_channels": 256, "latents": 512, "global_batch_size": 4, "n_critic": 1}
    training = Training(tmp_path / "big", data, **big, rounds_per_call=1, log_every_rounds=1, checkpoint_every_rounds=2)
    process = training.start()
    training.wait_until(lambda: len(training.checkpoints()) == 2)
    sent, queued_before = time.monotonic(), queued_seconds(process)
    process.send_signal(signal.SIGTERM)
    queued_after = queued_before
    while (code := process.poll()) is None:
        time.sleep(0.01)
        queued_after = max(queued_after, queued_seconds(process))
    seconds, queued = time.monotonic() - sent, queued_after - queued_before
    *_, last = training.printed().splitlines()
    stopped = re.fullmatch(r"train: Training stopped by SIGTERM after round (\d+) of 400\. Run again to resume\.", last)
    assert stopped, training.printed()
    assert code == 1
    assert training.unfinished() == []
    saved = training.checkpoints()[-1]
    assert saved.name == f"round-{int(stopped[1]):08d}"
    read_manifest(saved, "checkpoint")
    assert (saved / "state.npz").stat().st_size > 100_000_000
    call_seconds = max(json.loads(line)["seconds"] for line in (saved / "metrics.jsonl").read_text().splitlines()[1:])
    print(f"SIGTERM to the end of the process {seconds:.2f} s, {queued:.2f} s of them waiting for a CPU")
    print(f"the longest call but the first {call_seconds:.2f} s")
    assert seconds - queued < 5.0 + call_seconds


def queued_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return how long the main thread of a process was runnable but waiting for a CPU (Linux)."""
    return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1]) / 1e9


def one_sentence(training: Training) -> str:
    """Return the error message of a process, which must be its only line besides progress."""
    lines = [line for line in training.printed().splitlines() if not line.startswith(("»", "…"))]
    assert len(lines) == 1, training.printed()
    return lines[0]


def test_a_full_disk_stops_the_run_and_the_next_run_resumes(
    data: tuple[Path, Path], undisturbed: dict[str, Reference], tmp_path: Path
) -> None:
    """A limit on the file size (EFBIG) stands for a full disk (ENOSPC): the same writes fail, and no root is needed."""
    training = Training(tmp_path / "full", data)
    process = training.start()
    training.wait_until(lambda: len(training.checkpoints()) >= 2)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (40_000, 40_000))  # state.npz has 50 kB
    assert process.wait(timeout=600) == 1
    sentence = r"train: Cannot write \S+/round-(\d{8}): File too large\. Free space or name a writable folder, for instance .*"
    refused = re.fullmatch(sentence, one_sentence(training))
    assert refused, training.printed()
    kept = [path.name for path in training.checkpoints()]
    assert kept == [f"round-{int(refused[1]) - back:08d}" for back in (8, 4)]
    assert training.unfinished() == []
    training.finish()
    assert f"» Resuming from round {int(refused[1]) - 4} of 400" in training.printed()
    assert_same(undisturbed["cpu:1"].training, training)


def test_unwritable_events_stop_the_run_with_one_sentence(data: tuple[Path, Path], tmp_path: Path) -> None:
    training = Training(tmp_path / "events", data, sample_every_rounds=2)  # a picture of 5 kB each time
    process = training.start()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    assert process.wait(timeout=600) == 1
    sentence = r"train: Cannot write \S+/tensorboard: File too large\. Free space or name a writable folder, for instance .*"
    assert re.fullmatch(sentence, one_sentence(training)), training.printed()
    assert len(training.checkpoints()) == 2
    assert training.unfinished() == []
    for path in training.checkpoints():
        read_manifest(path, "checkpoint")
