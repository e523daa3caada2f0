"""The train step is killed, terminated or runs out of disk space, and the next process resumes.

In every case the training must end like one that was not disturbed (tests/support/trainings.py).
"""

from __future__ import annotations

import json
import random
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.common.artifacts import read_manifest
from tests.support.trainings import (
    Reference,
    Training,
    assert_same,
    data,
    kill,
    kill_at_random_moments,
    no_process_outlives_its_test,
    one_sentence,
    progress_at_kill,
    train_undisturbed,
)

__all__ = ["data", "no_process_outlives_its_test"]  # fixtures
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]

LANES, CHAINS, KILLS = 2, 2, 5  # at random moments: two trainings at a time, 20 kills in all
SEED = 20240607


@pytest.fixture(scope="module")
def undisturbed(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    """Return references for one and two replicas, trained at the same time, as the killed trainings are."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def train(devices: str) -> Reference:
        return train_undisturbed(folder / devices.replace(":", ""), data, devices)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(("cpu:1", "cpu:2"), pool.map(train, ("cpu:1", "cpu:2")), strict=True))


def test_kill_9_at_20_random_moments(data: tuple[Path, Path], undisturbed: dict[str, Reference], tmp_path: Path) -> None:
    def make(name: str) -> Training:
        return Training(tmp_path / name, data)

    killed = kill_at_random_moments(make, undisturbed["cpu:1"], lanes=LANES, chains=CHAINS, kills=KILLS, seed=SEED)
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
