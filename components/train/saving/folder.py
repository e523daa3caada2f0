"""The folder of one training: its checkpoints, sample grids and TensorBoard events."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.common.artifacts import ArtifactWriter
from components.common.images import write_png
from components.common.lease import Lease
from components.train.config import TrainConfig
from components.train.networks import ImageShape
from components.train.progress import Progress
from components.train.saving import checkpoint
from components.train.saving.tensorboard import Events, vertex_folders

SAMPLES, TENSORBOARD = "samples", "tensorboard"


class TrainingFolder:
    """The files of a training that is running, with `config` as the user set it, on images of `shape`.

    No checkpoint is written after `lease` was lost. `last_good` is the checkpoint that this process read or wrote last.
    """

    def __init__(self, path: Path, config: TrainConfig, shape: ImageShape, lease: Lease) -> None:
        self.path, self._config, self._shape, self._lease = path, config, shape, lease
        self.last_good: Path | None = None

    @cached_property
    def events(self) -> Events:
        """TensorBoard events, written here and to the folder that Vertex AI's TensorBoard reads."""
        return Events(self.path / TENSORBOARD, *vertex_folders(os.environ))

    def load(self, variables: Mapping[str, npt.NDArray[Any]]) -> checkpoint.Checkpoint | None:
        """Return the newest intact checkpoint or None. Raises ArtifactError if its variables differ from `variables`."""
        latest = checkpoint.load_latest(self.path, self._config, self._shape)
        if latest is not None:
            self.last_good = checkpoint.path_of(self.path, latest.progress.round)
            checkpoint.check_variables(self.last_good, latest.arrays, variables)
        return latest

    def save(self, arrays: dict[str, npt.NDArray[Any]], progress: Progress) -> None:
        """Write a checkpoint. Raises TrainingDivergedError, ArtifactError."""
        self._lease.check()
        self.last_good = checkpoint.save(self.path, self._config, self._shape, checkpoint.Checkpoint(arrays, progress))

    def write_evidence(self, lines: Iterable[Mapping[str, Any]]) -> Path:
        """Write the metrics of the rounds in which the training diverged; return the file."""
        return checkpoint.write_evidence(self.path, lines)

    def begin_samples(self, real: npt.NDArray[np.uint8]) -> None:
        """Write a grid of real images, and remove the samples of an earlier attempt that has no checkpoint."""
        shutil.rmtree(self.path / SAMPLES, ignore_errors=True)
        write_png(self.path / SAMPLES / "real.png", real)

    def write_samples(self, rounds: int, picture: npt.NDArray[np.uint8]) -> None:
        """Write a sample grid, uint8 [H, W, C]."""
        write_png(self.path / SAMPLES / f"round-{rounds:08d}.png", picture)
        self.events.picture(rounds, SAMPLES, picture)

    def copy_into(self, model: ArtifactWriter) -> None:
        """Copy sample grids and TensorBoard events to the artifact of a model."""
        for name in (SAMPLES, TENSORBOARD):
            model.copy(self.path / name)
