"""Memory of a real training process: at most dataset + 1.5 GB, and no more after 2,000 rounds than after 200."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from components.common.artifacts import read_manifest
from tests.support.datasets.training_data import write_digits
from tests.support.local_runs import ROOT

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

ROUNDS, SETTLED_ROUNDS = 2000, 200
ROUNDS_A_CALL = 20
MIB, GB = 2**20, 10**9
GROWTH_BYTES = 10 * MIB  # a leak of 6 KiB a round exceeds this; without a leak, memory grows by 1 to 2 MiB
OVERHEAD_BYTES = 1.5 * GB
CONFIG = f"""
rounds = {ROUNDS}
rounds_per_call = {ROUNDS_A_CALL}
log_every_rounds = {ROUNDS_A_CALL}
checkpoint_every_rounds = 400
sample_every_rounds = 1000
global_batch_size = 8
n_critic = 2
score_every_images = 0
latents = 8
generator_channels = 4
critic_channels = 4
"""


class Sample(NamedTuple):
    """The training process at a progress line: rounds done, resident bytes now, peak of the resident bytes."""

    round: int
    resident: int
    peak: int


def resident_bytes(pid: int) -> tuple[int, int]:
    """Return VmRSS and VmHWM of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    now, peak = (int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[index]
    return now, peak


def soak(folder: Path, dataset: Path, validation: Path, data: str) -> list[Sample]:
    """Train in a new process; return a sample for each progress line."""
    config = folder / "config.toml"
    config.write_text(CONFIG + f'data = "{data}"\n')
    paths = {"--config": config, "--dataset": dataset, "--validation": validation, "--work-dir": folder / "work",
             "--out": folder / "model"}  # fmt: skip
    words = [str(word) for pair in paths.items() for word in pair]
    log = folder / "log.txt"
    samples = []
    command = [sys.executable, "-m", "components.train", *words]
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if tick := re.match(r"… (\d+)/\d+ ", line):
                samples.append(Sample(int(tick[1]), *resident_bytes(process.pid)))
    assert process.returncode == 0, log.read_text()
    return samples


@pytest.mark.parametrize("data", ["resident", "stream"])
def test_2000_rounds_in_bounded_constant_memory(data: str, tmp_path: Path) -> None:
    dataset, validation = write_digits(tmp_path, train=1000)
    started = time.monotonic()
    samples = soak(tmp_path, dataset, validation, data)
    dataset_bytes = sum(entry.bytes for entry in read_manifest(dataset).files.values())
    settled = [sample.resident for sample in samples if sample.round >= SETTLED_ROUNDS]
    figures = {
        "rounds": samples[-1].round,
        "seconds": round(time.monotonic() - started),
        "settled_mib": settled[0] // MIB,
        "last_mib": settled[-1] // MIB,
        "growth_mib": round((settled[-1] - settled[0]) / MIB, 1),
        "peak_mib": samples[-1].peak // MIB,
    }
    print(json.dumps(figures))
    assert samples[-1].round == ROUNDS
    assert len(settled) == (ROUNDS - SETTLED_ROUNDS) // ROUNDS_A_CALL + 1
    assert settled[-1] - settled[0] < GROWTH_BYTES, figures
    assert samples[-1].peak < dataset_bytes + OVERHEAD_BYTES, figures
