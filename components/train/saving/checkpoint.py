"""Checkpoints: each is an artifact, so it exists once its manifest is written; the newest intact one is loaded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from components.common.artifacts import (
    MANIFEST,
    Manifest,
    digest_of,
    new_artifact,
    read_manifest,
    remove_artifact,
    remove_leftovers,
    write_text,
)
from components.common.errors import ArtifactError, TrainingDivergedError, first_line
from components.common.progress import say
from components.train import noise
from components.train.config import TrainConfig
from components.train.networks import ImageShape
from components.train.progress import MetricsLine, Progress, ScoreLine

# These may differ between two attempts of the same training, because they do not affect the result.
NOT_IN_KEY = {"devices", "keep_checkpoints", "checkpoint_every_rounds", "checkpoint_every_seconds"}
BROKEN = "broken.jsonl"


class Checkpoint(NamedTuple):
    """The content of a checkpoint: all variables by name, and the progress of the training."""

    arrays: dict[str, npt.NDArray[Any]]
    progress: Progress


class ForeignCheckpointError(ArtifactError):
    """A checkpoint is intact, but belongs to another training."""

    def __init__(self, path: Path, differences: Sequence[str]) -> None:
        cure = f"Remove {path}, or restore the settings that it was made with."
        super().__init__(f"Checkpoint {path} belongs to another training: it {'; it '.join(differences)}.", cure)


def training_key(config: TrainConfig, dataset_digest: str) -> str:
    """Return the folder name of a training: the same for the same data and config, on any devices."""
    return digest_of([_in_key(config.model_dump(mode="json")), dataset_digest])[:24]


def path_of(folder: Path, rounds: int) -> Path:
    """Return the path of the checkpoint after `rounds` in the folder of a training."""
    return folder / f"round-{rounds:08d}"


def save(folder: Path, config: TrainConfig, shape: ImageShape, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, delete those beyond `config.keep_checkpoints`, and return its path.

    `folder` is the folder of the training, named by its key. Raises TrainingDivergedError if a variable is not finite
    (earlier checkpoints are kept), ArtifactError if it cannot be written.
    """
    progress = checkpoint.progress
    broken = [name for name, array in checkpoint.arrays.items() if not np.all(np.isfinite(array))]
    if broken:
        raise TrainingDivergedError(
            f"Training diverged before round {progress.round}: {broken[0]} is not finite.", "Lower the learning rates."
        )
    path = path_of(folder, progress.round)
    with new_artifact(path, "checkpoint", config=config) as writer:
        with writer.open("state.npz") as stream:
            np.savez(stream, **checkpoint.arrays)  # type: ignore[arg-type] # names are keywords of savez
        with writer.open("best.npz") as stream:
            np.savez(stream, *progress.best)
        writer.write("metrics.jsonl", json_lines(progress.log))
        writer.write("scores.jsonl", json_lines(progress.scores))
        writer.counts["round"] = progress.round
        writer.details = _owner(folder, shape)
    # Checkpoints of later rounds are damaged, otherwise they had been loaded: they do not count, so that intact ones stay.
    not_later = [old for old in _newest_first(folder) if old.name <= path.name]
    for old in not_later[config.keep_checkpoints :]:
        remove_artifact(old)
    return path


def load_latest(folder: Path, config: TrainConfig, shape: ImageShape) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None. Damaged ones are logged and skipped.

    Raises ForeignCheckpointError if it belongs to another config, image shape or dataset, ArtifactError if the disk cannot be
    read.
    """
    damaged: dict[str, str] = {}
    for path in _newest_first(folder):
        try:
            manifest = read_manifest(path, "checkpoint")
            checkpoint = _read(path, manifest)
        except ArtifactError as error:
            damaged[path.name] = error.problem.removeprefix(f"{path}").lstrip(" /").removeprefix("is damaged: ").rstrip(".")
            continue
        except OSError as error:
            cure = "Repair the disk, or remove the checkpoint to resume from the one before."
            raise ArtifactError(f"Checkpoint {path} cannot be read: {first_line(error)}.", cure) from error
        _check_owner(path, manifest, config, shape)
        _log(damaged, f"loading {path.name} instead")
        return checkpoint
    _log(damaged, "there is no intact one before it, so training starts from scratch")
    return None


def check_variables(path: Path, arrays: Mapping[str, npt.NDArray[Any]], variables: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise ForeignCheckpointError if the arrays of a checkpoint do not match the variables of the training."""
    differences = [f"lacks {name}" for name in variables if name not in arrays]
    differences += [f"has {name}, which this training lacks" for name in arrays if name not in variables]
    for name in [name for name in variables if name in arrays]:
        theirs, ours = ([str(array.dtype), *array.shape] for array in (arrays[name], variables[name]))
        if theirs != ours:
            differences.append(f"has {name} as {theirs}, not {ours}")
    if differences:
        more = [f"differs in {len(differences) - 3} more variables"] * (len(differences) > 3)
        raise ForeignCheckpointError(path, differences[:3] + more)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left unfinished in the folder of a training. The caller must hold its lease."""
    for parent in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        remove_leftovers(parent)
    for path in _folders(folder):
        if not (path / MANIFEST).exists():
            remove_artifact(path)


def json_lines(rows: Sequence[BaseModel]) -> bytes:
    """Return one JSON object per line."""
    return "".join(f"{row.model_dump_json()}\n" for row in rows).encode()


def write_evidence(folder: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    """Write the metrics of a diverged training; return the file. NaN and infinity, which JSON lacks, become strings."""

    def plain(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    rows = [{name: plain(value) for name, value in line.items()} for line in lines]
    write_text(folder / BROKEN, "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows))
    return folder / BROKEN


def config_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], ignored: Collection[str] = ()) -> list[str]:
    """Return the settings in which two configs differ, each as "train.KEY = THEIRS, not OURS"; a missing key is "unset"."""
    shown = [{name: json.dumps(value) for name, value in config.items()} for config in (theirs, ours)]
    return [
        f"train.{name} = {shown[0].get(name, 'unset')}, not {shown[1].get(name, 'unset')}"
        for name in sorted((theirs.keys() | ours.keys()) - set(ignored))
        if shown[0].get(name) != shown[1].get(name)
    ]


def _in_key(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in NOT_IN_KEY}
    return kept | {"start_from": bool(config.get("start_from"))}  # the registry may move


def _owner(folder: Path, shape: ImageShape) -> dict[str, Any]:
    return {"training_key": folder.name, "image_size": shape.size, "channels": shape.channels, "noise": noise.KIND}


def _check_owner(path: Path, manifest: Manifest, config: TrainConfig, shape: ImageShape) -> None:
    details, owner = {"noise": "philox"} | manifest.details, _owner(path.parent, shape)  # philox: before "noise" was recorded
    differences = config_differences(_in_key(manifest.config), _in_key(config.model_dump(mode="json")))
    differences += [
        f"{name} = {details.get(name)}, not {owner[name]}"
        for name in ("image_size", "channels", "noise")
        if details.get(name) != owner[name]
    ]
    if not differences and details != owner:
        differences.append("another dataset")
    if differences:
        raise ForeignCheckpointError(path, [f"was made with {difference}" for difference in differences])


def _read(path: Path, manifest: Manifest) -> Checkpoint:
    try:
        with np.load(path / "state.npz", allow_pickle=False) as arrays:
            state = {name: arrays[name] for name in arrays.files}
        with np.load(path / "best.npz", allow_pickle=False) as arrays:
            best = [arrays[f"arr_{index}"] for index in range(len(arrays.files))]
        log = [MetricsLine.model_validate_json(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        scores = [ScoreLine.model_validate_json(line) for line in (path / "scores.jsonl").read_text().splitlines()]
        if path != path_of(path.parent, manifest.counts["round"]):
            raise ValueError(f"its manifest says round {manifest.counts['round']}")
    except (KeyError, ValueError, FileNotFoundError) as error:  # the digests match, but it is not a valid checkpoint
        raise ArtifactError(f"{path} is damaged: {first_line(error)}.", f"Remove {path}.") from error
    return Checkpoint(state, Progress(manifest.counts["round"], log, scores, best))


def _log(damaged: Mapping[str, str], consequence: str) -> None:
    for name, reason in damaged.items():
        say(f"Checkpoint {name} is damaged ({reason}); {consequence}")


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in _folders(folder) if (path / MANIFEST).exists()), reverse=True)


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.glob("round-*") if re.fullmatch(r"round-\d{8}", path.name)]
