"""Ingest on other runners: one process, threads, processes, Apache Flink and Prism produce the same bytes and right counts."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.common.artifacts import read_manifest
from tests.support.datasets.image_folder import write_digit_images
from tests.support.engines import EngineMissingError, engine_options, is_installable
from tests.support.ingests import ingested, said, start_ingest
from tests.support.local_runs import wait_for

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]
WORKERS = ("components.ingest.beam.forked_workers", "wgan-beam-worker")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of about 1,500 images: six chunks, with broken images, and with duplicates in different chunks."""
    folder = tmp_path_factory.mktemp("engines") / "pictures"
    write_digit_images(folder, 1400, broken=True)
    rng = np.random.default_rng(0)
    for index in range(40):
        pixels = Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8))
        for label, suffix in (("0", "png"), ("z", "bmp")):
            (folder / label).mkdir(exist_ok=True)
            pixels.save(folder / label / f"twice{index}.{suffix}")
    return folder


def config(pictures: Path, options: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"source": f"images:{pictures}", "labels_from_folders": True, "image_size": 32, "beam_options": list(options)}


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("reference") / "dataset"
    digest = ingested(out, **config(pictures))
    counts = read_manifest(out).counts
    assert (counts["read"], counts["quarantined"]) == (1484, 4)
    assert counts["duplicate"] >= 40
    return digest


def options_of(engine: str, in_ci: bool) -> tuple[str, ...]:
    try:
        return engine_options(engine)
    except EngineMissingError as error:
        if in_ci and is_installable(engine):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("engine", ["threads", "processes", "flink", "flink-processes", "prism"])
def test_engines_produce_the_same_bytes(engine: str, pictures: Path, undisturbed: str, tmp_path: Path, in_ci: bool) -> None:
    assert ingested(tmp_path / "dataset", **config(pictures, options_of(engine, in_ci))) == undisturbed
    assert "Read 1,484 = " in said(tmp_path / "dataset")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "dataset", "said"], "no other files"


@pytest.mark.parametrize(("engine", "seed"), [("processes", 0), ("processes", 1), ("flink-processes", 3)])
def test_a_worker_killed_at_a_random_moment_never_causes_wrong_counts(
    engine: str, seed: int, pictures: Path, undisturbed: str, tmp_path: Path, in_ci: bool
) -> None:
    out = tmp_path / "dataset"
    process = start_ingest(out, **config(pictures, options_of(engine, in_ci)))
    try:
        wait_for(lambda: bool(workers(process)) or process.poll() is not None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(random.Random(seed).uniform(0.0, 2.0))
        for victim in workers(process)[-1:]:  # the first one forks the others
            os.kill(victim, signal.SIGKILL)
        code = process.wait(timeout=120)  # it must not hang
    finally:
        kill_all(process)
    if code == 0:
        assert read_manifest(out, "dataset").digest == undisturbed
    else:
        assert not out.exists()
        assert said(out).count("ingest: ") == 1, "one sentence"
        assert "A Beam worker ended unexpectedly" in said(out)
        assert "finished chunks are reused" in said(out)
    assert ingested(out, **config(pictures)) == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "dataset", "said"], "no other files"


def test_worker_processes_load_no_tensorflow(pictures: Path, tmp_path: Path) -> None:
    process = start_ingest(tmp_path / "dataset", **config(pictures, engine_options("processes")))
    seen: dict[int, str] = {}
    try:
        while process.returncode is None:
            for worker in workers(process):
                with contextlib.suppress(OSError):
                    seen[worker] = Path(f"/proc/{worker}/maps").read_text() or seen.get(worker, "")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
    finally:
        kill_all(process)
    assert process.returncode == 0, said(tmp_path / "dataset")
    assert sum("_imaging" in maps for maps in seen.values()) == 3, "two, and the process that forked them, had loaded Pillow"
    assert not any("tensorflow" in line for maps in seen.values() for line in maps.splitlines() if "metadata" not in line)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """Return the process IDs of a run's Python workers, which belong to its session."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
                session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
            except (OSError, ValueError):
                continue
            words = [word.decode(errors="replace") for word in command]
            is_python = "python" in words[0]
            if session == process.pid and is_python and any(name in word for word in words for name in WORKERS):
                found.append(int(folder.name))
    return sorted(found)


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kill every process of a run's session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
