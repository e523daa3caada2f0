"""Train one contender in this process and write its snapshots and record: `python -m benchmarks.quality.train NAME …`.

The clock is the processor time of this process divided by the cores that it may use, so that other programs on the machine
hardly matter. It starts with the first step, when networks and data are ready, so tracing counts as training. It is paused
while samples are drawn. For each mark the folder has `NNNNN.npy` (uint8 [N, H, W, C]: as many samples as the dataset has
held-out images, at most 10,000) and `NNNNN.png` (the first 64), where NNNNN is the mark. record.json is written again after
each, so what a training has reached counts even if it is stopped. A training whose rounds end before the last mark has its last
snapshot under that mark, with the seconds of its end.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.quality.contender import Contender, Images, Stopwatch, UsedSeconds
from components.common.artifacts import now, read_manifest, write_bytes, write_json
from components.common.images import grid, write_png
from components.dataset.records import read_split

SAMPLES = 10_000  # at most
SEED = 1
GRID = 64
MARKS = (10, 15, 30, 60, 90, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800)  # seconds of the clock
RECORD = "record.json"
CORES = 2


class Mark(NamedTuple):
    """The progress at a snapshot; `seconds` is processor time divided by cores, `wall_seconds` depends on other programs.

    `cores` and `others_cores` are the mean numbers of cores used by this process and by others since the start.
    """

    mark: float
    seconds: float
    wall_seconds: float
    rounds: int
    images_seen: int
    cores: float
    others_cores: float


def make(name: str, images: Images, config: Path) -> Contender:
    """Return a contender. Only its own module is imported, because each configures TensorFlow differently."""
    if name.startswith("keras"):
        from benchmarks.quality.keras_example import KerasExample

        return KerasExample(images, int(name.removeprefix("keras")))
    if name == "prototype":
        from benchmarks.quality.prototype import Prototype

        return Prototype(images)
    from benchmarks.quality.ours import Ours

    return Ours(images, config)


def marks_until(seconds: float) -> list[float]:
    """Return the marks of a training of `seconds`; the last is its end."""
    return [float(mark) for mark in MARKS if mark < seconds] + [seconds]


def name_of(mark: float) -> str:
    """Return the name of a mark's files, without the suffix."""
    return f"{mark:05.0f}"


class Recorder:
    """Called after each host call: takes a snapshot if a mark is due, and ends the training after the last mark.

    The others get a snapshot at the end of the first call after a mark, ours (`early`) at the end of the last call before it,
    so that long calls do not help ours.
    """

    def __init__(
        self, contender: Contender, folder: Path, marks: list[float], samples: int, early: bool, about: dict[str, Any]
    ) -> None:
        self.contender, self.folder, self.due, self.samples, self.early = contender, folder, list(marks), samples, early
        self.about = about  # what the record says besides the marks
        self.watch, self.last_seconds, self.cores = Stopwatch(), 0.0, cores()
        self.marks: list[Mark] = []
        self.reached: tuple[int, int] | None = None  # rounds and images

    def train(self) -> None:
        """Train until the last mark; a training that ends before it gets its last snapshot then."""
        self.watch.start()
        self.contender.train(self.after_call)
        if self.due and self.reached:
            self.watch.pause()
            self._snapshot(self.due[-1], self.watch.total(), *self.reached)

    def after_call(self, rounds: int, images_seen: int) -> bool:
        """Return True after the last mark."""
        self.reached = rounds, images_seen
        used = self.watch.total()
        seconds = used.cpu / self.cores
        passed = seconds + self._ahead(seconds)
        self.last_seconds = seconds
        if passed >= self.due[0]:
            self.watch.pause()
            # If a call passed several marks, the snapshot belongs to the last of them.
            self._snapshot(max(mark for mark in self.due if mark <= passed), used, rounds, images_seen)
            self.due = [mark for mark in self.due if mark > passed]
            self.watch.start()
        return not self.due

    def _ahead(self, seconds: float) -> float:
        # The first call traces, so it does not predict the next one; later calls differ by a few per cent.
        return 1.05 * (seconds - self.last_seconds) if self.early and self.last_seconds else 0.0

    def _snapshot(self, due: float, used: UsedSeconds, rounds: int, images_seen: int) -> None:
        of_ours, of_others = (round(busy / used.wall, 2) for busy in (used.cpu, max(0.0, used.machine - used.cpu)))
        seconds, wall_seconds = round(used.cpu / self.cores, 2), round(used.wall, 2)
        mark = Mark(due, seconds, wall_seconds, rounds, images_seen, of_ours, of_others)
        samples = self.contender.draw(self.samples, SEED)
        stream = io.BytesIO()
        np.save(stream, samples, allow_pickle=False)
        write_bytes(self.folder / f"{name_of(due)}.npy", stream.getvalue())
        write_png(self.folder / f"{name_of(due)}.png", grid(samples[:GRID], 8, scale=2))
        self.marks.append(mark)
        progress = {"seconds": due, "ended_at": now(), "marks": [done._asdict() for done in self.marks]}
        write_json(self.folder / RECORD, {**self.about, "settings": self.contender.settings, **progress})
        print(f"  {mark.seconds:7.1f} s  {rounds} rounds  {mark.cores} cores, others {mark.others_cores}", file=sys.stderr)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def sample_count(dataset: Path) -> int:
    """Return how many samples are drawn and scored: as many as held-out images; at most SAMPLES, or the training images."""
    counts = read_manifest(dataset, "dataset", verify=False).counts
    return min(SAMPLES, counts["train"], counts["eval"])


def cpu_model() -> str:
    """Return the model name of the CPU in /proc/cpuinfo."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def train(name: str, seconds: float, dataset: Path, config: Path, folder: Path) -> None:
    """Train the contender and replace its folder."""
    _set_equal_conditions()
    import keras

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    keras.utils.set_random_seed(SEED)
    about = {
        "contender": name,
        "dataset": read_manifest(dataset, "dataset", verify=False).digest,
        "cpu": cpu_model(),
        "cores": cores(),
        "onednn": os.environ["TF_ENABLE_ONEDNN_OPTS"],
    }
    contender = make(name, read_split(dataset, "train").images, config)
    Recorder(contender, folder, marks_until(seconds), sample_count(dataset), name == "ours", about).train()


def _set_equal_conditions() -> None:
    # This must happen before TensorFlow is imported and counts the cores. By default, TensorFlow uses oneDNN only on CPUs with
    # AVX-512 and newer; with AVX2, a round of the Keras example takes 4 times the CPU time without it.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    # Grappler fails to fuse a bias with a LeakyReLU whose second derivative is needed, and logs an error each time.
    tf.config.optimizer.set_experimental_options({"remapping": False})


def main() -> None:
    """Train the contender that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    train(arguments.name, arguments.seconds, arguments.dataset, arguments.config, arguments.folder)


if __name__ == "__main__":
    main()
