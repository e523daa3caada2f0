"""Where a training starts: from scratch, or from the networks and optimizers of an earlier model.

A model artifact, and a version made from it, contains `state.npz`: all variables after the last round of its training. A
training on other images can start from them if it has the same networks and computes the same updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.artifacts import ArtifactWriter, read_manifest
from components.common.errors import ArtifactError, first_line
from components.common.store import Store
from components.train.config import TrainConfig
from components.train.networks import ImageShape
from components.train.saving.checkpoint import config_differences

STATE = "state.npz"
ORIGIN = "started_from.json"
# A training may differ in these from the model that it starts from: its length, devices, logging and random numbers.
MAY_DIFFER = {
    "devices", "precision", "data", "rounds", "rounds_per_call", "log_every_rounds", "checkpoint_every_rounds",
    "checkpoint_every_seconds", "keep_checkpoints", "sample_every_rounds", "seed", "score_every_images", "patience",
    "start_from",
}  # fmt: skip

Arrays = dict[str, npt.NDArray[Any]]


class Origin(BaseModel):
    """What a training started from ("": from scratch), and why it could not start from the champion."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    started_from: str = ""
    why_from_scratch: str = ""


def save_state(model: ArtifactWriter, arrays: Arrays) -> None:
    """Write the variables to a model artifact that is being written."""
    with model.open(STATE) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type] # names are keywords of savez


def load_start(
    model: Path, config: TrainConfig, shape: ImageShape, variables: Mapping[str, npt.NDArray[Any]]
) -> tuple[Origin, Arrays]:
    """Return the variables of `model`, a model artifact or a version; none, with the reason, if they are not compatible.

    `variables` are those of the new training, by name. Raises ArtifactError if `model` is damaged.
    """
    manifest = read_manifest(model)
    name = model.name if manifest.kind == "version" else manifest.digest[:12]
    if STATE not in manifest.files:
        return Origin(why_from_scratch=f"{name} contains no variables to start from"), {}
    theirs = manifest.details["train"] if manifest.kind == "version" else manifest.config
    differences = config_differences(theirs, config.model_dump(mode="json"), MAY_DIFFER)
    for key, ours in (("image_size", shape.size), ("channels", shape.channels), ("classes", shape.classes)):
        if manifest.details[key] != ours:
            differences.append(f"{key} = {manifest.details[key]}, not {ours}")
    if differences:
        return Origin(why_from_scratch=f"{name} was made with {'; '.join(differences)}"), {}
    try:
        with np.load(model / STATE, allow_pickle=False) as stored:
            arrays = {each: stored[each] for each in stored.files}
    except (OSError, ValueError) as error:
        problem = f"{model / STATE} cannot be read: {first_line(error)}."
        raise ArtifactError(problem, "Name another model with train.start_from.") from error
    forms = [{each: (array.dtype, array.shape) for each, array in of.items()} for of in (arrays, variables)]
    if forms[0] != forms[1]:
        return Origin(why_from_scratch=f"{name} has other variables than the networks of this training"), {}
    return Origin(started_from=name), arrays


def write_origin(store: Store, origin: Origin) -> None:
    """Write what a training started from to its store, for processes that resume it."""
    store.write(ORIGIN, [origin.model_dump_json().encode()], sync=True)


def read_origin(store: Store) -> Origin:
    """Return what a training started from. Raises ArtifactError if that cannot be read."""
    try:
        return Origin.model_validate_json(store.read(ORIGIN))
    except FileNotFoundError:
        return Origin()
    except ValidationError as error:
        raise ArtifactError(
            f"{store.location}/{ORIGIN} cannot be read: {first_line(error)}.",
            f"Remove {store.location} to train from scratch.",
        ) from error
