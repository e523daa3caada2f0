"""kill -9 of ingest, of training and of gcsfuse itself while their folders are on a mounted bucket."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import time
from pathlib import Path

import pytest

from components.common.artifacts import read_manifest
from tests.support.ingests import ingested, said, start_ingest
from tests.support.local_runs import wait_for
from tests.support.mount import Mount
from tests.support.servers.object_store import Store
from tests.support.trainings import (
    Reference,
    Training,
    assert_same,
    data,
    kill_at_random_moments,
    no_process_outlives_its_test,
    one_sentence,
    train_undisturbed,
)

__all__ = ["data", "no_process_outlives_its_test"]  # fixtures
pytestmark = pytest.mark.timeout(2400)
SEED = 20251126
GONE = r"(not connected|connection abort)"  # how Linux answers when the daemon has ended, and while it ends
DIGITS = {"source": "digits", "image_size": 8}
INGEST_KILLS, LANES, CHAINS, TRAIN_KILLS = 10, 2, 1, 5  # 20 in all


@pytest.fixture(scope="module")
def undisturbed(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Return a training on a disk."""
    return train_undisturbed(tmp_path_factory.mktemp("undisturbed") / "disk", data)


def files_of(store: Store) -> list[str]:
    """Return the objects of the dataset, complete or not."""
    return [name for name in store.names("ingest/dataset/") if not name.endswith("/")]


def test_ingest_is_killed_at_random_moments(store: Store, mount: Mount, tmp_path: Path) -> None:
    """After each kill the dataset is complete or does not exist; the next run makes the one of an undisturbed run."""
    started = time.monotonic()
    expected = ingested(tmp_path / "undisturbed", **DIGITS)
    life = time.monotonic() - started
    moments, killed = random.Random(SEED), list[str]()
    out = mount.folder / "ingest" / "dataset"
    while len(killed) < INGEST_KILLS:
        process, moment = start_ingest(out, beside=tmp_path, **DIGITS), moments.uniform(0.2, 1.2) * life
        if len(killed) % 2:  # while the dataset is written, which takes a small part of that time
            wait_for(lambda process=process: bool(files_of(store)) or process.poll() is not None, seconds=300)
            moment = moments.uniform(0.0, 0.1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moment)
        if process.poll() is None:
            process.kill()
            process.wait()
            killed.append(f"after {moment:.1f} s: {len(files_of(store))} files")
        if store.content("ingest/dataset/manifest.json"):
            assert read_manifest(out, "dataset").digest == expected
        if len(killed) % 2:
            subprocess.run(["rm", "-rf", str(out)], check=True)
    print(*killed, sep="\n")
    assert ingested(out, beside=tmp_path, **DIGITS) == expected
    assert [name for name in store.names("ingest/") if name.endswith(".tmp")] == []
    assert {line.rpartition(": ")[2] for line in killed} != {"0 files"}


def test_training_is_killed_at_random_moments(
    mount: Mount, data: tuple[Path, Path], undisturbed: Reference, tmp_path: Path
) -> None:
    def make(name: str) -> Training:
        return Training(tmp_path / name, data, mount.folder / name)

    whole = make("whole")
    started = time.monotonic()
    whole.finish()
    seconds = time.monotonic() - started
    assert_same(undisturbed.training, whole)
    reference = undisturbed._replace(seconds=seconds)  # it is slower on the mount
    killed = kill_at_random_moments(make, reference, lanes=LANES, chains=CHAINS, kills=TRAIN_KILLS, seed=SEED, late_lanes=1)
    assert len(killed) == LANES * CHAINS * TRAIN_KILLS
    assert any(": round" in line for line in killed)


def test_training_resumes_after_gcsfuse_was_killed(
    mount: Mount, data: tuple[Path, Path], undisturbed: Reference, tmp_path: Path
) -> None:
    """The training ends with one sentence; on the bucket that is mounted again the next one resumes."""
    training = Training(tmp_path / "training", data, mount.folder / "gcsfuse-killed")
    process = training.start()
    training.wait_until(lambda: training.rounds_saved() >= 40)
    mount.kill()
    assert process.wait(timeout=300) == 1, training.printed()
    assert re.fullmatch(rf"train: Cannot \w+ \S+: .*{GONE}.*", one_sentence(training)), training.printed()
    mount.restart()
    saved = training.rounds_saved()
    assert saved >= 40
    training.finish()
    assert f"» Resuming from round {saved} of 400" in training.printed()
    assert_same(undisturbed.training, training)


def test_ingest_ends_with_one_sentence_when_gcsfuse_is_killed(store: Store, mount: Mount, tmp_path: Path) -> None:
    out = mount.folder / "ingest-remounted" / "dataset"
    process = start_ingest(out, beside=tmp_path, **DIGITS)
    while not store.names("ingest-remounted/") and process.poll() is None:
        time.sleep(0.01)
    mount.kill()
    assert process.wait(timeout=300) == 1, said(out, tmp_path)
    *_, last = said(out, tmp_path).splitlines()
    assert re.match(rf"ingest: Cannot \w+ \S+: .*{GONE}", last), said(out, tmp_path)
    assert "Traceback" not in said(out, tmp_path)
    mount.restart()
    expected = ingested(tmp_path / "undisturbed", **DIGITS)
    assert ingested(out, beside=tmp_path, **DIGITS) == expected
    assert json.loads(store.content("ingest-remounted/dataset/manifest.json") or b"")["kind"] == "dataset"
