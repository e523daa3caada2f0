"""Trainings in processes of their own, which are killed and started again, and must end like one that was not disturbed.

The same arrays in the last checkpoint, bit for bit, the same metrics.jsonl except for the seconds, and the same sample grids,
byte for byte.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import os
import random
import re
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

SEED = 20240607
SETTINGS: dict[str, Any] = {
    "rounds": 400, "rounds_per_call": 2, "log_every_rounds": 10, "checkpoint_every_rounds": 4, "sample_every_rounds": 20,
    "global_batch_size": 8, "n_critic": 2, "latents": 8, "generator_channels": 4, "critic_channels": 4,
    "precision": "float32",  # "auto" measures the machine, and could differ between two trainings that are compared
}  # fmt: skip


class Training:
    """A training by `python -m components.train`, which can be started repeatedly.

    Its checkpoints and its model are below `place`; what it prints is in `folder`, which is on a disk.
    """

    processes: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, folder: Path, data: tuple[Path, Path], place: Path | None = None, **changes: Any) -> None:
        self.folder, self.place, self.starts = folder, place or folder, 0
        self.out = self.place / "out" / "model"
        folder.mkdir(parents=True)
        self.out.parent.mkdir(parents=True)
        values = {name: json.dumps(value) for name, value in {**SETTINGS, **changes}.items()}
        (folder / "train.toml").write_text("[train]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
        paths = {"config": folder / "train.toml", "dataset": data[0], "validation": data[1], "out": self.out}
        paths["work-dir"] = self.place / "work"
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

    @classmethod
    @contextlib.contextmanager
    def ended(cls) -> Iterator[None]:
        """Kill at the end of the block every process that still runs."""
        try:
            yield
        finally:
            for process in cls.processes:
                if process.poll() is None:
                    kill(process)
            cls.processes.clear()

    def finish(self) -> None:
        """Start a process and wait until it succeeds."""
        assert self.start().wait(timeout=600) == 0, self.printed()

    def checkpoints(self) -> list[Path]:
        return sorted(file.parent for file in self.place.glob("work/checkpoints/*/round-*/manifest.json"))

    def rounds_saved(self) -> int:
        """Return the number of rounds in the last checkpoint."""
        return max((int(path.name.removeprefix("round-")) for path in self.checkpoints()), default=0)

    def has_ticked(self) -> bool:
        """Return whether the last process has finished a host call; the first one includes compilation."""
        return "… " in self.printed()

    def unfinished(self) -> list[Path]:
        """Return half-written files, and checkpoints and models that are half-written or half-removed."""
        artifacts = [*self.place.glob("work/checkpoints/*/round-*"), *self.place.glob("out/model")]
        # Unlike Path.glob, this ignores folders that are removed meanwhile.
        files = glob.glob(f"{self.place}/**/.*.tmp", recursive=True)  # noqa: PTH207
        return [*map(Path, files), *(path for path in artifacts if not (path / "manifest.json").exists())]


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


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    with Training.ended():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The dataset and the validation of all trainings."""
    return write_digits(tmp_path_factory.mktemp("data"))


class Reference(NamedTuple):
    """A training that was not disturbed, with the seconds from its start to its first rounds and to its end."""

    training: Training
    start_seconds: float
    seconds: float

    def life_seconds(self, rounds_done: int) -> float:
        """Return how long a process runs that resumes after `rounds_done`."""
        return self.start_seconds + (self.seconds - self.start_seconds) * (1.0 - rounds_done / SETTINGS["rounds"])


def one_sentence(training: Training) -> str:
    """Return the error message of a process, which must be its only line besides progress."""
    lines = [line for line in training.printed().splitlines() if not line.startswith(("»", "…"))]
    assert len(lines) == 1, training.printed()
    return lines[0]


def train_undisturbed(folder: Path, data: tuple[Path, Path], devices: str = "cpu:1") -> Reference:
    """Train to the end, and measure it."""
    training = Training(folder, data, devices=devices)
    started = time.monotonic()
    process = training.start()
    training.wait_until(training.has_ticked)
    start_seconds = time.monotonic() - started
    assert process.wait(timeout=600) == 0, training.printed()
    return Reference(training, start_seconds, time.monotonic() - started)


def kill_at_random_moments(
    make: Callable[[str], Training],
    reference: Reference,
    *,
    lanes: int,
    chains: int,
    kills: int,
    seed: int,
    late_lanes: int = 0,
) -> list[str]:
    """Kill trainings that `make` returns by name, and return where each kill hit.

    A chain is one training that is killed and restarted several times. After the last kill it runs to its end and is compared
    with the reference. The moments are uniform over the life of the process, from its start to the end of the export; in the
    last `late_lanes` lanes from its first rounds on.
    """

    def lane(number: int) -> list[str]:
        moments, killed = random.Random(seed + number), list[str]()
        trainings = (make(f"lane-{number}-chain-{chain}") for chain in itertools.count(1))
        training = next(trainings)
        while len(killed) < chains * kills:
            life = reference.life_seconds(training.rounds_saved())
            process, moment = training.start(), moments.uniform(0.0, life)
            if number >= lanes - late_lanes and training.rounds_saved() < SETTINGS["rounds"]:  # else there is no round left
                training.wait_until(training.has_ticked)
                moment = moments.uniform(0.0, life - reference.start_seconds)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=moment)
            if process.poll() is None and kill(process):  # it may have ended just before the signal
                killed.append(f"{training.folder.name}: at {moment:4.1f} s of {life:.1f}: {progress_at_kill(training)}")
                if len(killed) % kills:
                    continue
                training.finish()
            assert process.returncode in (0, -signal.SIGKILL), training.printed()
            assert_same(reference.training, training)
            training = next(trainings)
        return killed

    with ThreadPoolExecutor(lanes) as pool:
        killed = [line for lines in pool.map(lane, range(lanes)) for line in lines]
    print(*killed, sep="\n")
    return killed
