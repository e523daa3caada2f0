"""The history of a source: its accepted snapshots, with their statistics, and when, why and against which each was accepted.

A history is a folder with history.json (its id, which a new history replaces), accepted.json (the acceptances; the next
snapshot is compared with the last one), snapshots/ID/ and refused/ID/ (for the report of a run that was stopped). A snapshot's
folder is written before its entry in accepted.json, so every snapshot in the list is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from components.common import locks
from components.common.artifacts import new_artifact, read_manifest, remove_leftovers, write_json, write_text
from components.common.errors import ArtifactError, first_line
from components.validate.anomalies import Anomaly
from components.validate.config import ValidateConfig

IDENTITY, ACCEPTED, LOCK, SNAPSHOTS, REFUSED = "history.json", "accepted.json", ".lock", "snapshots", "refused"
LOCK_SECONDS = 60.0
NOT_REPORTED = ("sample.tfrecord", "tally-train.json", "tally-eval.json")  # large, and read only to compare the next snapshot

Reason = Literal["first snapshot", "no error", "validate.accept"]


class Acceptance(BaseModel):
    """One accepted snapshot: when, against which snapshot (empty: the first), why, and by which run."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    snapshot: str
    dataset_digest: str
    against: str
    accepted_at: str
    why: Reason
    anomalies: tuple[Anomaly, ...]
    accepted_by: str  # the folder of the validation, which is in the run's folder
    config: dict[str, object]


_ACCEPTANCES = TypeAdapter(list[Acceptance])


def snapshot_id(digest: str) -> str:
    """Return the snapshot id of a dataset's digest. It starts with a letter, because TOML would read some ids as numbers."""
    return f"s{digest[:12]}"


def locked(history: Path) -> AbstractContextManager[None]:
    """Hold the history's lock; wait up to LOCK_SECONDS for it. Raises ArtifactError."""
    cure = "Name a writable folder with validate.history."
    return locks.locked(history / LOCK, holder="Another validation", wait_seconds=LOCK_SECONDS, cure=cure)


def read_accepted(history: Path) -> list[Acceptance]:
    """Return the acceptances, oldest first. Raises ArtifactError when the list cannot be read."""
    file = history / ACCEPTED
    try:
        return _ACCEPTANCES.validate_json(file.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        raise _broken(file, first_line(error)) from error


def find(accepted: list[Acceptance], digest: str) -> Acceptance | None:
    """Return the acceptance of a dataset, or None if it has not been accepted."""
    return next((entry for entry in accepted if entry.dataset_digest == digest), None)


def snapshot_folder(history: Path, entry: Acceptance) -> Path:
    """Return the folder of an accepted snapshot after checking every file. Raises ArtifactError if it is missing or damaged."""
    folder = history / SNAPSHOTS / entry.snapshot
    try:
        manifest = read_manifest(folder, "snapshot")
    except ArtifactError as error:
        raise _broken(history / ACCEPTED, f"its snapshot {entry.snapshot} is damaged ({error.problem.rstrip('.')})") from error
    if manifest.inputs.get("dataset") != entry.dataset_digest:
        raise _broken(history / ACCEPTED, f"{folder} belongs to another dataset")
    return folder


def _broken(file: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"The history of snapshots {file} is broken: {why}.",
        "Restore it from a backup, or name another validate.history, which starts a new history.",
    )


def accept(history: Path, entry: Acceptance, config: ValidateConfig, validation: Path, dataset: Path) -> None:
    """Store the files of a validation as an accepted snapshot. The caller holds the lock. Raises ArtifactError."""
    _store(history / SNAPSHOTS / entry.snapshot, "snapshot", config, validation, dataset)
    entries = [*read_accepted(history), entry]
    write_text(history / ACCEPTED, _ACCEPTANCES.dump_json(entries, indent=1).decode() + "\n")
    shutil.rmtree(history / REFUSED / entry.snapshot, ignore_errors=True)


def refuse(history: Path, snapshot: str, config: ValidateConfig, validation: Path, dataset: Path) -> None:
    """Store the files of a validation that stopped a run, for its report. The caller holds the lock. Raises ArtifactError."""
    _store(history / REFUSED / snapshot, "validation", config, validation, dataset, NOT_REPORTED)


def _store(
    folder: Path, kind: str, config: ValidateConfig, validation: Path, dataset: Path, without: Sequence[str] = ()
) -> None:
    remove_leftovers(folder.parent)
    with new_artifact(folder, kind, config=config, inputs={"dataset": dataset}) as artifact:
        for file in sorted(file for file in validation.iterdir() if file.is_file() and file.name not in without):
            shutil.copy(file, artifact.path / file.name)


def copy_files(snapshot: Path, folder: Path) -> None:
    """Copy the files of a snapshot, whose digests have been checked, into `folder`."""
    for name in read_manifest(snapshot, verify=False).files:
        shutil.copy(snapshot / name, folder / name)


def history_id(history: Path) -> str:
    """Return the id of a history; create the history if there is none. Raises ArtifactError."""
    file = history / IDENTITY
    with locked(history):
        if not file.exists():
            write_json(file, {"id": uuid4().hex})
        try:
            return str(json.loads(file.read_bytes())["id"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise _broken(file, first_line(error)) from error


def state(history: Path, digest: str) -> list[str]:
    """Return what a validation depends on, for its cache key: the history's id and the snapshot that it is compared with.

    `digest` is the dataset's, empty if it is not known yet. A dataset that was accepted before keeps the snapshot that it was
    compared with then, so that its validation is found in the cache. Raises ArtifactError when the history is broken.
    """
    identity, accepted = history_id(history), read_accepted(history)
    known = find(accepted, digest)
    if known is not None:
        return [identity, known.against]
    return [identity, accepted[-1].snapshot if accepted else ""]
