"""Where a training starts: from scratch, or from the networks and optimizers of a model that was made before.

A model artifact, and a version made from it, holds `state.npz`: every variable after the training's last round. A training on
other images may go on from there when what it computes is the same otherwise: the same networks and the same updates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.artifacts import Manifest, read_manifest, write_text
from components.common.errors import ArtifactError, first_line
from components.train.config import TrainConfig
from components.train.networks import ImageShape

STATE = "state.npz"
ORIGIN = "started_from.json"
# These may be others than those of the model that training starts from: how long, on what, how it is watched, and chance.
MAY_DIFFER = {
    "devices", "precision", "data", "rounds", "rounds_per_call", "log_every_rounds", "checkpoint_every_rounds",
    "keep_checkpoints", "sample_every_rounds", "seed", "score_every_images", "patience", "start_from",
}  # fmt: skip

Arrays = dict[str, npt.NDArray[Any]]


class Start(NamedTuple):
    """What a training starts with: the variables, and whose they are."""

    name: str
    arrays: Arrays


def save_state(folder: Path, arrays: Arrays) -> None:
    """Write the variables into a model artifact under way."""
    with (folder / STATE).open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type] # names are keywords of savez


def start_of(model: Path, config: TrainConfig, shape: ImageShape, wanted: Mapping[str, npt.NDArray[Any]]) -> Start | str:
    """Return what training can start with, or why it cannot start from `model`, a model artifact or a version.

    `wanted` are the variables to be set, by name. Raises ArtifactError when `model` is damaged.
    """
    manifest = read_manifest(model)
    name = model.name if manifest.kind == "version" else manifest.digest[:12]
    if STATE not in manifest.files:
        return f"{name} holds no training to start from"
    if differences := _differences(manifest, config, shape):
        return f"{name} was made with {'; '.join(differences)}"
    try:
        with np.load(model / STATE, allow_pickle=False) as stored:
            arrays = {each: stored[each] for each in stored.files}
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{model / STATE} cannot be read: {error}.", "Name another model with train.start_from.") from error
    theirs, ours = ({each: (str(array.dtype), array.shape) for each, array in of.items()} for of in (arrays, wanted))
    if theirs != ours:
        return f"{name} has other variables than the networks here"
    return Start(name, arrays)


class Origin(BaseModel):
    """What a training started from (empty: from scratch), and why not from the champion where it was to."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    started_from: str = ""
    why_from_scratch: str = ""


def write_origin(folder: Path, origin: Origin) -> None:
    """Keep what a training started from beside its checkpoints, for the processes that go on with it."""
    write_text(folder / ORIGIN, origin.model_dump_json())


def read_origin(folder: Path) -> Origin:
    """Return what a training started from. Raises ArtifactError when that cannot be read."""
    try:
        return Origin.model_validate_json((folder / ORIGIN).read_bytes())
    except FileNotFoundError:
        return Origin()
    except (OSError, ValidationError) as error:
        raise ArtifactError(
            f"{folder / ORIGIN} cannot be read: {first_line(error)}.", f"Remove {folder} to train from scratch."
        ) from error


def _differences(manifest: Manifest, config: TrainConfig, shape: ImageShape) -> list[str]:
    theirs = dict(manifest.details["train"] if manifest.kind == "version" else manifest.config)
    ours = config.model_dump(mode="json")
    found = [
        f"train.{name} = {json.dumps(theirs.get(name))}, not {json.dumps(ours.get(name))}"
        for name in sorted(theirs.keys() | ours.keys())
        if name not in MAY_DIFFER and theirs.get(name) != ours.get(name)
    ]
    for name, mine in (("image_size", shape.size), ("channels", shape.channels), ("classes", shape.classes)):
        if manifest.details[name] != mine:
            found.append(f"{name} = {manifest.details[name]}, not {mine}")
    return found
