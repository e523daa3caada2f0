"""Checkpoints: each an artifact directory, written then renamed; the last one that is whole wins."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from components.common.artifacts import (
    Manifest,
    digest_of,
    new_artifact,
    read_manifest,
    remove_directory,
    remove_leftovers,
    write_text,
)
from components.common.errors import ArtifactError, TrainingDivergedError, first_line
from components.common.progress import say
from components.train.config import TrainConfig
from components.train.networks import ImageShape
from components.train.progress import MetricsLine, Progress, ScoreLine

# These may change between two tries at the same training: they have no say in what is computed.
NOT_IN_KEY = {"devices", "keep_checkpoints", "checkpoint_every_rounds"}
BROKEN = "broken.jsonl"


class Checkpoint(NamedTuple):
    """What a checkpoint holds: all variables by name, and how far the training is."""

    arrays: dict[str, npt.NDArray[Any]]
    progress: Progress


class ForeignCheckpointError(ArtifactError):
    """A checkpoint is whole, but another training's."""

    def __init__(self, path: Path, differences: Sequence[str]) -> None:
        cure = f"Remove {path}, or run with what it was made with."
        super().__init__(f"Checkpoint {path} is another training's: it {'; it '.join(differences)}.", cure)


def training_key(config: TrainConfig, dataset_digest: str) -> str:
    """Return the name of a training: whoever has the same data and config, on whatever devices, finds its checkpoints."""
    return digest_of([_in_key(config.model_dump(mode="json")), dataset_digest])[:24]


def path_of(folder: Path, rounds: int) -> Path:
    """Return where the checkpoint after `rounds` lies in the folder of a training."""
    return folder / f"round-{rounds:08d}"


def save(folder: Path, config: TrainConfig, shape: ImageShape, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and drop those beyond `config.keep_checkpoints`; return its path.

    `folder` is the training's, named by its key. Raises TrainingDivergedError when a variable is not finite (the
    checkpoints before are kept), ArtifactError when it cannot be written.
    """
    progress = checkpoint.progress
    broken = [name for name, array in checkpoint.arrays.items() if not np.all(np.isfinite(array))]
    if broken:
        raise TrainingDivergedError(
            f"Training broke before round {progress.round}: {broken[0]} is not finite.", "Lower the learning rates."
        )
    path = path_of(folder, progress.round)
    with new_artifact(path, "checkpoint", config=config) as writer:
        with (writer.path / "state.npz").open("wb") as stream:
            np.savez(stream, **checkpoint.arrays)  # type: ignore[arg-type] # names are keywords of savez
        with (writer.path / "best.npz").open("wb") as stream:
            np.savez(stream, *progress.best)
        write_lines(writer.path / "metrics.jsonl", progress.log)
        write_lines(writer.path / "scores.jsonl", progress.scores)
        writer.counts["round"] = progress.round
        writer.details = _owner(folder, shape)
    # Later ones than this are damaged (they were passed over): they must not push out the sound ones before them.
    not_later = [old for old in _newest_first(folder) if old.name <= path.name]
    for old in not_later[config.keep_checkpoints :]:
        remove_directory(old)
    return path


def load_latest(folder: Path, config: TrainConfig, shape: ImageShape) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None; damaged ones are named and passed over.

    Raises ForeignCheckpointError where it is of another config, image shape or dataset, ArtifactError where the disk
    refuses to read.
    """
    damaged: dict[str, str] = {}
    for path in _newest_first(folder):
        try:
            manifest = read_manifest(path, "checkpoint")
            _refuse_foreign(path, manifest, config, shape)
            found = _read(path, manifest)
        except ForeignCheckpointError:
            raise
        except ArtifactError as error:
            damaged[path.name] = error.problem.removeprefix(f"{path}").lstrip(" /").removeprefix("is damaged: ").rstrip(".")
            continue
        except OSError as error:
            raise ArtifactError(
                f"Checkpoint {path} cannot be read: {error.strerror}.", "Mend that, or remove it: the one before is taken."
            ) from error
        _tell(damaged, f"{path.name} is taken instead")
        return found
    _tell(damaged, "there is no sound one before it, training starts from scratch")
    return None


def check_variables(path: Path, arrays: Mapping[str, npt.NDArray[Any]], wanted: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse a checkpoint with other variables than the networks and optimizers have. Raises ForeignCheckpointError."""
    differences = [f"lacks {name}" for name in wanted if name not in arrays]
    differences += [f"has {name}, which the networks here lack" for name in arrays if name not in wanted]
    for name in [name for name in wanted if name in arrays]:
        theirs, ours = ([str(array.dtype), *array.shape] for array in (arrays[name], wanted[name]))
        if theirs != ours:
            differences.append(f"has {name} as {theirs}, the networks here {ours}")
    if differences:
        more = [f"differs in {len(differences) - 3} more variables"] * (len(differences) > 3)
        raise ForeignCheckpointError(path, differences[:3] + more)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half-written in a training's folder. Only for the holder of its lock."""
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        for ending in ("tmp", "old"):
            remove_leftovers(place, ending=ending)


def write_lines(file: Path, rows: Sequence[BaseModel]) -> None:
    """Write a JSON object a line."""
    write_text(file, "".join(f"{row.model_dump_json()}\n" for row in rows))


def write_evidence(folder: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    """Write what tells of a broken training; return the file. JSON has no NaN, so such numbers are words there."""

    def plain(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    rows = [{name: plain(value) for name, value in line.items()} for line in lines]
    write_text(folder / BROKEN, "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows))
    return folder / BROKEN


def _in_key(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in NOT_IN_KEY}
    return kept | {"start_from": bool(config.get("start_from"))}  # wherever that is


def _owner(folder: Path, shape: ImageShape) -> dict[str, Any]:
    return {"training_key": folder.name, "image_size": shape.size, "channels": shape.channels}


def _refuse_foreign(path: Path, manifest: Manifest, config: TrainConfig, shape: ImageShape) -> None:
    theirs, ours = _in_key(manifest.config), _in_key(config.model_dump(mode="json"))
    differences = [
        f"was made with train.{name} = {_shown(theirs, name)}, this run has {_shown(ours, name)}"
        for name in sorted(theirs.keys() | ours.keys())
        if _shown(theirs, name) != _shown(ours, name)
    ]
    details, owner = manifest.details, _owner(path.parent, shape)
    if details.get("image_size") != shape.size:
        differences.append(f"has image size {details.get('image_size')}, the data has {shape.size}")
    if details.get("channels") != shape.channels:
        differences.append(f"has {details.get('channels')} channels, the data has {shape.channels}")
    if not differences and details != owner:
        differences.append("was made from another dataset")
    if differences:
        raise ForeignCheckpointError(path, differences)


def _shown(config: Mapping[str, Any], name: str) -> str:
    return json.dumps(config[name]) if name in config else "nothing"


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
    except (KeyError, ValueError, FileNotFoundError) as error:  # the digests are right, so it was never a checkpoint of ours
        raise ArtifactError(f"{path} is damaged: {first_line(error)}.", f"Remove {path}.") from error
    return Checkpoint(state, Progress(manifest.counts["round"], log, scores, best))


def _tell(damaged: Mapping[str, str], what_now: str) -> None:
    for name, reason in damaged.items():
        say(f"Checkpoint {name} is damaged ({reason}); {what_now}")


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("round-*") if re.fullmatch(r"round-\d{8}", path.name)), reverse=True)
