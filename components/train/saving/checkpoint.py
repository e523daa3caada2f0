"""Checkpoints: each is an artifact, so it exists once its manifest is written; the newest intact one is loaded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from components.common.artifacts import MANIFEST, Manifest, read_manifest, remove_leftovers
from components.common.errors import ArtifactError, TrainingDivergedError, UnreachableError, first_line
from components.common.progress import say
from components.common.store import Folder, Store
from components.common.stored_artifacts import new_stored_artifact, open_artifact, remove_stored
from components.train import noise
from components.train.config import TrainConfig, in_key
from components.train.networks import ImageShape
from components.train.progress import MetricsLine, Progress, ScoreLine

BROKEN = "broken.jsonl"
ROUND = re.compile(r"round-\d{8}")


class Checkpoint(NamedTuple):
    """The content of a checkpoint: all variables by name, and the progress of the training."""

    arrays: dict[str, npt.NDArray[Any]]
    progress: Progress


class ForeignCheckpointError(ArtifactError):
    """A checkpoint is intact, but belongs to another training."""

    def __init__(self, location: str, differences: Sequence[str]) -> None:
        cure = f"Remove {location}, or restore the settings that it was made with."
        super().__init__(f"Checkpoint {location} belongs to another training: it {'; it '.join(differences)}.", cure)


def name_of(rounds: int) -> str:
    """Return the name of the checkpoint after `rounds`."""
    return f"round-{rounds:08d}"


def save(store: Store, config: TrainConfig, shape: ImageShape, checkpoint: Checkpoint) -> str:
    """Write a checkpoint, delete those beyond `config.keep_checkpoints`, and return its name.

    `store` is the training's, whose location ends with its key. Raises TrainingDivergedError if a variable is not finite
    (earlier checkpoints are kept), ArtifactError if it cannot be written.
    """
    progress = checkpoint.progress
    broken = [name for name, array in checkpoint.arrays.items() if not np.all(np.isfinite(array))]
    if broken:
        raise TrainingDivergedError(
            f"Training diverged before round {progress.round}: {broken[0]} is not finite.", "Lower the learning rates."
        )
    name = name_of(progress.round)
    with new_stored_artifact(store, name, "checkpoint", config=config) as writer:
        with writer.open("state.npz") as stream:
            np.savez(stream, **checkpoint.arrays)  # type: ignore[arg-type] # names are keywords of savez
        with writer.open("best.npz") as stream:
            np.savez(stream, *progress.best)
        writer.write("metrics.jsonl", json_lines(progress.log))
        writer.write("scores.jsonl", json_lines(progress.scores))
        writer.counts["round"] = progress.round
        writer.details = _owner(store, shape)
    # Checkpoints of later rounds are damaged, otherwise they had been loaded: they do not count, so that intact ones stay.
    not_later = [old for old in _newest_first(store) if old <= name]
    for old in not_later[config.keep_checkpoints :]:
        remove_stored(store, old)
    return name


def load_latest(store: Store, config: TrainConfig, shape: ImageShape) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None. Damaged ones are logged and skipped.

    Raises ForeignCheckpointError if it belongs to another config, image shape or dataset, ArtifactError if the disk or bucket
    cannot be read.
    """
    damaged: dict[str, str] = {}
    for name in _newest_first(store):
        location = f"{store.location}/{name}"
        try:
            with open_artifact(store, name, "checkpoint") as path:
                manifest = read_manifest(path, verify=False)
                checkpoint = _read(path, manifest)
        except UnreachableError:  # it may be intact
            raise
        except ArtifactError as error:
            damaged[name] = error.problem.removeprefix(location).lstrip(" /").removeprefix("is damaged: ").rstrip(".")
            continue
        except OSError as error:
            cure = "Repair the disk, or remove the checkpoint to resume from the one before."
            raise ArtifactError(f"Checkpoint {location} cannot be read: {first_line(error)}.", cure) from error
        _check_owner(store, name, manifest, config, shape)
        _log(damaged, f"loading {name} instead")
        return checkpoint
    _log(damaged, "there is no intact one before it, so training starts from scratch")
    return None


def check_variables(location: str, arrays: Mapping[str, npt.NDArray[Any]], variables: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise ForeignCheckpointError if the arrays of a checkpoint do not match the variables of the training."""
    differences = [f"lacks {name}" for name in variables if name not in arrays]
    differences += [f"has {name}, which this training lacks" for name in arrays if name not in variables]
    for name in [name for name in variables if name in arrays]:
        theirs, ours = ([str(array.dtype), *array.shape] for array in (arrays[name], variables[name]))
        if theirs != ours:
            differences.append(f"has {name} as {theirs}, not {ours}")
    if differences:
        more = [f"differs in {len(differences) - 3} more variables"] * (len(differences) > 3)
        raise ForeignCheckpointError(location, differences[:3] + more)


def remove_unfinished(store: Store) -> None:
    """Remove what killed processes left unfinished in the store of a training. The caller must hold its lease."""
    if isinstance(store, Folder):
        for parent in (store.path, *(path for path in store.path.iterdir() if path.is_dir())):
            remove_leftovers(parent)
    for name, is_complete in _checkpoints(store).items():
        if not is_complete:
            remove_stored(store, name)


def json_lines(rows: Sequence[BaseModel]) -> bytes:
    """Return one JSON object per line."""
    return "".join(f"{row.model_dump_json()}\n" for row in rows).encode()


def write_evidence(store: Store, lines: Iterable[Mapping[str, Any]]) -> str:
    """Write the metrics of a diverged training; return their location. NaN and infinity, which JSON lacks, become strings."""

    def plain(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    rows = [{name: plain(value) for name, value in line.items()} for line in lines]
    store.write(BROKEN, (f"{json.dumps(row, allow_nan=False)}\n".encode() for row in rows))
    return f"{store.location}/{BROKEN}"


def config_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], ignored: Collection[str] = ()) -> list[str]:
    """Return the settings in which two configs differ, each as "train.KEY = THEIRS, not OURS"; a missing key is "unset"."""
    shown = [{name: json.dumps(value) for name, value in config.items()} for config in (theirs, ours)]
    return [
        f"train.{name} = {shown[0].get(name, 'unset')}, not {shown[1].get(name, 'unset')}"
        for name in sorted((theirs.keys() | ours.keys()) - set(ignored))
        if shown[0].get(name) != shown[1].get(name)
    ]


def _owner(store: Store, shape: ImageShape) -> dict[str, Any]:
    return {
        "training_key": PurePosixPath(store.location).name,
        "image_size": shape.size,
        "channels": shape.channels,
        "noise": noise.KIND,
    }


def _check_owner(store: Store, name: str, manifest: Manifest, config: TrainConfig, shape: ImageShape) -> None:
    details, owner = {"noise": "philox"} | manifest.details, _owner(store, shape)  # philox: before "noise" was recorded
    differences = config_differences(in_key(manifest.config), in_key(config.model_dump(mode="json")))
    differences += [
        f"{key} = {details.get(key)}, not {owner[key]}"
        for key in ("image_size", "channels", "noise")
        if details.get(key) != owner[key]
    ]
    if not differences and details != owner:
        differences.append("another dataset")
    if differences:
        raise ForeignCheckpointError(f"{store.location}/{name}", [f"was made with {difference}" for difference in differences])


def _read(path: Path, manifest: Manifest) -> Checkpoint:
    try:
        with np.load(path / "state.npz", allow_pickle=False) as arrays:
            state = {name: arrays[name] for name in arrays.files}
        with np.load(path / "best.npz", allow_pickle=False) as arrays:
            best = [arrays[f"arr_{index}"] for index in range(len(arrays.files))]
        log = [MetricsLine.model_validate_json(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        scores = [ScoreLine.model_validate_json(line) for line in (path / "scores.jsonl").read_text().splitlines()]
        if path.name != name_of(manifest.counts["round"]):
            raise ValueError(f"its manifest says round {manifest.counts['round']}")
    except (KeyError, ValueError, FileNotFoundError) as error:  # the digests match, but it is not a valid checkpoint
        raise ArtifactError(f"{path} is damaged: {first_line(error)}.", f"Remove {path}.") from error
    return Checkpoint(state, Progress(manifest.counts["round"], log, scores, best))


def _log(damaged: Mapping[str, str], consequence: str) -> None:
    for name, reason in damaged.items():
        say(f"Checkpoint {name} is damaged ({reason}); {consequence}")


def _newest_first(store: Store) -> list[str]:
    return sorted((name for name, is_complete in _checkpoints(store).items() if is_complete), reverse=True)


def _checkpoints(store: Store) -> dict[str, bool]:
    """Return the checkpoints, and whether each is complete."""
    if isinstance(store, Folder):  # a folder may also be empty
        return {name: MANIFEST in store.names(name) for name in store.names() if ROUND.fullmatch(name)}
    found: dict[str, bool] = {}
    for name, _, file in (path.partition("/") for path in store.files()):
        if ROUND.fullmatch(name):
            found[name] = found.get(name, False) or file == MANIFEST
    return found
