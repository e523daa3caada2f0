"""The files of one training: its checkpoints, sample grids and TensorBoard events."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.common.artifacts import ArtifactWriter
from components.common.errors import ArtifactError
from components.common.images import png_bytes, read_png
from components.common.lease import Lease
from components.common.store import Store
from components.train import step
from components.train.config import TrainConfig
from components.train.networks import ImageShape
from components.train.progress import PROGRESS, Progress
from components.train.saving import checkpoint
from components.train.saving.tensorboard import Events, vertex_folders

SAMPLES, TENSORBOARD = "samples", "tensorboard"
KID = "kid_while_training"
SAVING_SHARE = 0.01  # of the time, at most, for the checkpoints of checkpoint_every_seconds, and for progress.json
PROGRESS_SECONDS = 2.0  # between two writes of progress.json, at least


class TrainingFolder:
    """The files of a training that is running, with `config` as the user set it, on images of `shape`.

    They are in `store`, but TensorBoard's are in the folder `local`: the store's, or a temporary one if the store is a bucket.
    No checkpoint is written after `lease` was lost. `last_good` is the one that this process read or wrote last.
    """

    def __init__(self, store: Store, local: Path, config: TrainConfig, shape: ImageShape, lease: Lease) -> None:
        self.store, self._local, self._config, self._shape, self._lease = store, local, config, shape, lease
        self.last_good = ""
        self._next_progress = 0.0  # time.monotonic()

    @cached_property
    def events(self) -> Events:
        """TensorBoard events, written here and to the folder that Vertex AI's TensorBoard reads."""
        return Events(self._local / TENSORBOARD, *vertex_folders(os.environ))

    def load(self, variables: Mapping[str, npt.NDArray[Any]]) -> checkpoint.Checkpoint | None:
        """Return the newest intact checkpoint or None. Raises ArtifactError if its variables differ from `variables`."""
        latest = checkpoint.load_latest(self.store, self._config, self._shape)
        if latest is not None:
            self.last_good = self._location(checkpoint.name_of(latest.progress.round))
            checkpoint.check_variables(self.last_good, latest.arrays, variables)
            if not (self._local / TENSORBOARD).exists():
                self._write_events_again(latest.progress)
        return latest

    def _write_events_again(self, progress: Progress) -> None:
        """Write the events of a training that began on another machine, from its checkpoint and sample grids."""
        for line in progress.log:
            self.events.scalars(line.round, {name: getattr(line, name) for name in step.METRICS})
        for score in progress.scores:
            self.events.scalars(score.round, {KID: score.kid})
        for name in sorted(name for name in self.store.files(SAMPLES) if name.startswith(f"{SAMPLES}/round-")):
            rounds = int(Path(name).stem.removeprefix("round-"))
            if rounds <= progress.round:
                self.events.picture(rounds, SAMPLES, read_png(self.store.read(name)))

    def _location(self, name: str) -> str:
        return f"{self.store.location}/{name}"

    def save(self, arrays: dict[str, npt.NDArray[Any]], progress: Progress) -> None:
        """Write a checkpoint. Raises TrainingDivergedError, ArtifactError."""
        self._lease.check()
        name = checkpoint.save(self.store, self._config, self._shape, checkpoint.Checkpoint(arrays, progress))
        self.last_good = self._location(name)

    def write_progress(self, progress: Progress, rounds: int, rounds_per_second: float, *, last: bool) -> None:
        """Write progress.json of a training of `rounds`, if it is due or the last one; it takes little time."""
        started = time.monotonic()
        if started < self._next_progress and not last:
            return
        content = progress.file(rounds, rounds_per_second).model_dump_json().encode()
        with contextlib.suppress(ArtifactError):  # of a full disk, the next checkpoint tells
            self.store.write(PROGRESS, [content])
        ended = time.monotonic()
        self._next_progress = ended + max(PROGRESS_SECONDS, (ended - started) / SAVING_SHARE)

    def write_evidence(self, lines: Iterable[Mapping[str, Any]]) -> str:
        """Write the metrics of the rounds in which the training diverged; return the location of the file."""
        return checkpoint.write_evidence(self.store, lines)

    def begin_samples(self, real: npt.NDArray[np.uint8]) -> None:
        """Write a grid of real images, and remove samples and progress of an earlier attempt that has no checkpoint."""
        self.store.remove(SAMPLES)
        self.store.delete(PROGRESS)
        self.store.write(f"{SAMPLES}/real.png", [png_bytes(real)])

    def write_samples(self, rounds: int, picture: npt.NDArray[np.uint8]) -> None:
        """Write a sample grid, uint8 [H, W, C]."""
        self.store.write(f"{SAMPLES}/{checkpoint.name_of(rounds)}.png", [png_bytes(picture)])
        self.events.picture(rounds, SAMPLES, picture)

    def copy_into(self, model: ArtifactWriter) -> None:
        """Copy sample grids and TensorBoard events to the artifact of a model."""
        for name in sorted(self.store.files(SAMPLES)):
            model.write(name, self.store.read(name))
        model.copy(self._local / TENSORBOARD)
