"""The history of a source: which snapshots were accepted, against which, why, and the statistics of each.

A folder with history.json (its id: another folder is another history), accepted.json (a list, the last one is what the next
snapshot is compared with), snapshots/ID/ and refused/ID/ (what the report of a run that was stopped shows). A snapshot's
folder is written first and named in accepted.json last, so a snapshot that is named is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from components.common import locks
from components.common.artifacts import new_artifact, now, read_manifest, remove_leftovers, write_json, write_text
from components.common.errors import ArtifactError, first_line
from components.validate.anomalies import Anomaly
from components.validate.config import ValidateConfig

IDENTITY, ACCEPTED, LOCK, SNAPSHOTS, REFUSED = "history.json", "accepted.json", ".lock", "snapshots", "refused"
LOCK_SECONDS = 60.0
NOT_SHOWN = ("sample.tfrecord", "tally-train.json", "tally-eval.json")  # large, and for the next snapshot only


class Acceptance(BaseModel):
    """One accepted snapshot: when, against which (empty: the first), why, and by which run."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    snapshot: str
    dataset_digest: str
    against: str
    accepted_at: str
    why: Literal["first snapshot", "no error", "validate.accept"]
    anomalies: tuple[Anomaly, ...]
    accepted_by: str  # the folder of the validation, which is in the run's
    config: dict[str, object]


class Identity(BaseModel):
    """The content of history.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str


_LIST = TypeAdapter(list[Acceptance])


def snapshot_id(digest: str) -> str:
    """Return the id of a dataset by its digest; the letter keeps TOML from reading one as a number."""
    return f"s{digest[:12]}"


def locked(history: Path) -> AbstractContextManager[None]:
    """Hold the history's lock, waiting up to 60 seconds for it. Raises ArtifactError."""
    cure = "Name a writable folder with validate.history."
    return locks.locked(history / LOCK, holder="Another validation", wait_seconds=LOCK_SECONDS, cure=cure)


def read_accepted(history: Path) -> list[Acceptance]:
    """Return what was accepted, oldest first. Raises ArtifactError when the list cannot be read."""
    file = history / ACCEPTED
    try:
        return _LIST.validate_json(file.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        raise _broken(file, first_line(error)) from error


def find(accepted: list[Acceptance], digest: str) -> Acceptance | None:
    """Return the acceptance of a dataset, or None where it has not been accepted."""
    return next((entry for entry in accepted if entry.dataset_digest == digest), None)


def snapshot_folder(history: Path, entry: Acceptance) -> Path:
    """Return the folder of an accepted snapshot, every file checked. Raises ArtifactError when it is missing or damaged."""
    folder = history / SNAPSHOTS / entry.snapshot
    try:
        manifest = read_manifest(folder, "snapshot")
    except ArtifactError as error:
        raise _broken(history / ACCEPTED, f"its snapshot {entry.snapshot} is damaged ({error.problem.rstrip('.')})") from error
    if manifest.inputs.get("dataset") != entry.dataset_digest:
        raise _broken(history / ACCEPTED, f"{folder} is of another dataset")
    return folder


def _broken(file: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"The history of snapshots {file} is broken: {why.rstrip('.')}.",
        "Restore it from a backup, or name another validate.history; the next snapshot is its first then.",
    )


def accept(history: Path, entry: Acceptance, config: ValidateConfig, validation: Path, dataset: Path) -> None:
    """Keep the files of a validation as an accepted snapshot. Raises ArtifactError."""
    _keep(history / SNAPSHOTS / entry.snapshot, "snapshot", config, validation, dataset)
    entries = [*read_accepted(history), entry]
    write_text(history / ACCEPTED, _LIST.dump_json(entries, indent=1).decode() + "\n")
    shutil.rmtree(history / REFUSED / entry.snapshot, ignore_errors=True)


def refuse(history: Path, snapshot: str, config: ValidateConfig, validation: Path, dataset: Path) -> None:
    """Keep the files of a validation that stopped a run, for its report. Raises ArtifactError."""
    _keep(history / REFUSED / snapshot, "validation", config, validation, dataset, NOT_SHOWN)


def _keep(
    folder: Path, kind: str, config: ValidateConfig, validation: Path, dataset: Path, without: Sequence[str] = ()
) -> None:
    remove_leftovers(folder.parent)  # the history's lock is held
    with new_artifact(folder, kind, config=config, inputs={"dataset": dataset}) as artifact:
        for file in sorted(file for file in validation.iterdir() if file.is_file() and file.name not in without):
            shutil.copy(file, artifact.path / file.name)


def history_id(history: Path) -> str:
    """Return the id of a history, which is made where there is none. Raises ArtifactError."""
    file = history / IDENTITY
    with locked(history):
        try:
            return Identity.model_validate_json(file.read_bytes()).id
        except FileNotFoundError:
            made = Identity(id=uuid4().hex)
            write_json(file, made.model_dump())
            return made.id
        except (OSError, ValidationError) as error:
            raise _broken(file, first_line(error)) from error


def state(history: Path, digest: str) -> list[str]:
    """Return what the outcome for a dataset rests on: the history's id and the snapshot that it is, or was, compared with.

    `digest` is the dataset's, empty where it is not known yet. For a snapshot that was accepted this is what it was before,
    so that a validation which has been done is found again. Raises ArtifactError when the history is broken.
    """
    identity, accepted = history_id(history), read_accepted(history)
    known = find(accepted, digest)
    if known is not None:
        return [identity, known.against]
    return [identity, accepted[-1].snapshot if accepted else ""]


def new_acceptance(
    snapshot: str,
    digest: str,
    against: str,
    why: Literal["first snapshot", "no error", "validate.accept"],
    anomalies: list[Anomaly],
    out: Path,
    config: ValidateConfig,
) -> Acceptance:
    """Return an acceptance of now."""
    return Acceptance(
        snapshot=snapshot,
        dataset_digest=digest,
        against=against,
        accepted_at=now(),
        why=why,
        anomalies=tuple(anomalies),
        accepted_by=str(out),
        config=config.model_dump(mode="json"),
    )
