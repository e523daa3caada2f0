"""The history of a source: its accepted snapshots, with their statistics, and when, why and against which each was accepted.

    history.json                its id, which a new history replaces
    accepted/000017.json        the 17th acceptance; the next snapshot is compared with the last one
    snapshots/ID-ATTEMPT/       the files of an accepted snapshot
    refused/ID-ATTEMPT/         those of a refused one, for the report of the run that was stopped

It is the same in a folder and at a URL (components/common/store.py), and there are no locks. A snapshot's folder is written
before its acceptance, so every accepted snapshot is complete. Of all validations that compared with the same last snapshot only
one can create the next acceptance; the others get a ConflictError and compare again.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import uuid4

from pydantic import Field, ValidationError

from components.common.artifacts import ArtifactWriter, new_artifact, read_manifest
from components.common.errors import ArtifactError, ConflictError, first_line
from components.common.numbered import numbered, read_created, read_numbered
from components.common.section import Frozen
from components.common.store import store_at
from components.common.stored_artifacts import open_artifact, store_artifact
from components.validate.anomalies import Anomaly
from components.validate.config import ValidateConfig

IDENTITY, ACCEPTED, SNAPSHOTS, REFUSED = "history.json", "accepted", "snapshots", "refused"
NOT_REPORTED = ("sample.tfrecord", "tally-train.json", "tally-eval.json")  # large, and read only to compare the next snapshot

Reason = Literal["first snapshot", "no error", "validate.accept"]


class Acceptance(Frozen):
    """One accepted snapshot: when, against which snapshot (empty: the first), why, and by which run."""

    snapshot: str
    dataset_digest: str
    against: str
    accepted_at: str
    why: Reason
    anomalies: tuple[Anomaly, ...]
    accepted_by: str  # the folder of the validation, which is in the run's folder
    config: dict[str, object]
    stored_as: str = Field("", pattern="^(s[0-9a-f]{12}-[0-9a-f]{8})?$")  # its folder; empty until it is stored


class Accepted(NamedTuple):
    """The acceptances, oldest first, and the number of the last one."""

    entries: list[Acceptance]
    number: int

    @property
    def last(self) -> Acceptance | None:
        """The acceptance that the next snapshot is compared with."""
        return self.entries[-1] if self.entries else None

    def find(self, digest: str) -> Acceptance | None:
        """Return the acceptance of a dataset, or None if it has not been accepted."""
        return next((entry for entry in self.entries if entry.dataset_digest == digest), None)


def snapshot_id(digest: str) -> str:
    """Return the snapshot id of a dataset's digest. It starts with a letter, because TOML would read some ids as numbers."""
    return f"s{digest[:12]}"


class History:
    """The history in a folder or at a URL. Operations raise ArtifactError when it is broken, or cannot be read or written."""

    def __init__(self, location: str) -> None:
        self._store = store_at(location)

    def id(self) -> str:
        """Return the id of the history; create the history if there is none."""
        self._store.create(IDENTITY, json.dumps({"id": uuid4().hex}).encode())
        try:
            return str(json.loads(read_created(self._store, IDENTITY))["id"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._broken(IDENTITY, first_line(error)) from error

    def accepted(self) -> Accepted:
        """Return the acceptances."""
        created, found = read_numbered(self._store, ACCEPTED), []
        for number, content in created.items():
            try:
                found.append(Acceptance.model_validate_json(content))
            except ValidationError as error:
                raise self._broken(numbered(ACCEPTED, number), first_line(error)) from error
        return Accepted(found, max(created, default=0))

    @contextlib.contextmanager
    def open_snapshot(self, entry: Acceptance) -> Iterator[Path]:
        """Yield the folder of an accepted snapshot, or a temporary copy, after checking every file."""
        name = f"{SNAPSHOTS}/{entry.stored_as}"
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(open_artifact(self._store, name, "snapshot"))
            except ArtifactError as error:
                why = f"its snapshot {entry.snapshot} is damaged ({error.problem.rstrip('.')})"
                raise self._broken(ACCEPTED, why) from error
            if read_manifest(folder, verify=False).inputs.get("dataset") != entry.dataset_digest:
                raise self._broken(ACCEPTED, f"{name} belongs to another dataset")
            yield folder

    def _broken(self, name: str, why: str) -> ArtifactError:
        return ArtifactError(
            f"The history of snapshots {self._store.location}/{name} is broken: {why}.",
            "Restore it from a backup, or name another validate.history, which starts a new history.",
        )

    def accept(self, entry: Acceptance, before: Accepted, config: ValidateConfig, validation: Path, dataset: Path) -> None:
        """Store the files of a validation, which was compared with the last of `before`, as an accepted snapshot.

        Raises ConflictError when another validation was accepted meanwhile.
        """
        refused = self._refused(entry.snapshot)
        name = self._add(SNAPSHOTS, entry.snapshot, "snapshot", config, validation, dataset)
        content = entry.model_copy(update={"stored_as": name}).model_dump_json(indent=1).encode()
        if not self._store.create(numbered(ACCEPTED, before.number + 1), content):
            self._store.remove(f"{SNAPSHOTS}/{name}")
            raise ConflictError(
                f"Another run was accepted into {self._store.location} at the same time; its snapshot stands.", "Run again."
            )
        self._remove(refused)

    def refuse(self, snapshot: str, config: ValidateConfig, validation: Path, dataset: Path) -> None:
        """Store the files of a validation that stopped a run, for its report."""
        refused = self._refused(snapshot)
        self._add(REFUSED, snapshot, "validation", config, validation, dataset, NOT_REPORTED)
        self._remove(refused)

    @contextlib.contextmanager
    def open_refused(self, digest: str) -> Iterator[Path | None]:
        """Yield the folder of the refusal of a dataset, or a temporary copy, unchecked; None if it was not refused."""
        with contextlib.ExitStack() as stack:
            found = None
            for name in self._refused(snapshot_id(digest)):
                with contextlib.suppress(ArtifactError):  # half written or half removed: there is nothing to show
                    folder = stack.enter_context(open_artifact(self._store, name, "validation", verify=False))
                    if read_manifest(folder, verify=False).inputs.get("dataset") == digest:
                        found = folder
            yield found

    def _refused(self, snapshot: str) -> list[str]:
        return [f"{REFUSED}/{name}" for name in self._store.names(REFUSED) if name.partition("-")[0] == snapshot]

    def _remove(self, folders: Sequence[str]) -> None:
        for folder in folders:
            self._store.remove(folder)

    def _add(
        self, kinds: str, snapshot: str, kind: str, config: ValidateConfig, validation: Path, dataset: Path,
        without: Sequence[str] = (),
    ) -> str:  # fmt: skip
        """Store the files of a validation in a folder that no other attempt uses; return its name."""
        name = f"{snapshot}-{uuid4().hex[:8]}"
        with tempfile.TemporaryDirectory(prefix="snapshot-") as temporary:
            with new_artifact(Path(temporary) / name, kind, config=config, inputs={"dataset": dataset}) as artifact:
                for file in sorted(file for file in validation.iterdir() if file.is_file() and file.name not in without):
                    artifact.copy(file)
            store_artifact(self._store, f"{kinds}/{name}", Path(temporary) / name)
        return name

    def state(self, digest: str) -> list[str]:
        """Return what a validation depends on, for its cache key: the history's id and the snapshot that it is compared with.

        `digest` is the dataset's, empty if it is not known yet. A dataset that was accepted before keeps the snapshot that it
        was compared with then, so that its validation is found in the cache.
        """
        identity, accepted = self.id(), self.accepted()
        if known := accepted.find(digest):
            return [identity, known.against]
        return [identity, accepted.last.snapshot if accepted.last else ""]


def copy_files(snapshot: Path, artifact: ArtifactWriter) -> None:
    """Copy the files of a snapshot, whose digests have been checked, into an artifact."""
    for name in read_manifest(snapshot, verify=False).files:
        artifact.copy(snapshot / name)
