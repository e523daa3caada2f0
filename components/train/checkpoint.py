"""Checkpoints: each an artifact directory, written then renamed; the last one that is whole wins."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.artifacts import digest_of, new_artifact, read_manifest, write_text
from components.errors import ArtifactError, TrainingDivergedError
from components.progress import say
from components.train.config import TrainConfig
from components.train.loop import Logged

# These may change between two tries at the same training: they have no say in what is computed.
NOT_IN_KEY = {"devices", "keep_checkpoints", "checkpoint_every_rounds"}


class Checkpoint(NamedTuple):
    """What a checkpoint holds: rounds done, all variables by name, the log so far."""

    round: int
    arrays: dict[str, npt.NDArray[Any]]
    log: list[Logged]


def training_key(config: TrainConfig, dataset_digest: str) -> str:
    """Return the name of a training: whoever has the same data and config, on whatever devices, finds its checkpoints."""
    return digest_of([config.model_dump(mode="json", exclude=NOT_IN_KEY), dataset_digest])[:24]


def save(folder: Path, config: TrainConfig, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and drop those beyond `config.keep_checkpoints`; return its folder.

    Raises TrainingDivergedError when a variable is not finite (the checkpoints before are kept), ArtifactError when it
    cannot be written.
    """
    broken = [name for name, array in checkpoint.arrays.items() if not np.all(np.isfinite(array))]
    if broken:
        raise TrainingDivergedError(
            f"Training broke before round {checkpoint.round}: {broken[0]} is not finite.", "Lower the learning rates."
        )
    path = folder / f"round-{checkpoint.round:08d}"
    with new_artifact(path, "checkpoint", config=config) as writer:
        content = io.BytesIO()
        np.savez(content, **checkpoint.arrays)  # type: ignore[arg-type] # names are keywords of savez
        (writer.path / "state.npz").write_bytes(content.getvalue())
        write_log(writer.path / "metrics.jsonl", checkpoint.log)
        writer.counts["round"] = checkpoint.round
    for old in list(_newest_first(folder))[config.keep_checkpoints :]:
        shutil.rmtree(old)
    return path


def load_latest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None; a damaged one is named and passed over."""
    for path in _newest_first(folder):
        try:
            manifest = read_manifest(path, "checkpoint")
        except ArtifactError as error:
            say(f"Checkpoint passed over, the one before is taken: {error.problem}")
            continue
        with np.load(path / "state.npz", allow_pickle=False) as arrays:
            state = {name: arrays[name] for name in arrays.files}
        log = [Logged.model_validate_json(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return Checkpoint(manifest.counts["round"], state, log)
    return None


def write_log(file: Path, log: list[Logged]) -> None:
    """Write metrics.jsonl."""
    write_text(file, "".join(f"{logged.model_dump_json()}\n" for logged in log))


def _newest_first(folder: Path) -> Iterator[Path]:
    return iter(sorted((path for path in folder.glob("round-*") if re.fullmatch(r"round-\d{8}", path.name)), reverse=True))
