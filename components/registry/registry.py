"""A registry: published versions, the pointer to the version in service (the champion), and a record of every decision.

    versions/v0001/{claim.json, saved_model/, scores.json, samples.png, model_card.{md,html}, manifest.json}
    champion/000017.json   the pointer after its 17th change, and why it changed; the highest is in service
    decisions/DIGEST.json  one for each model that was decided on

It is the same in a folder and at a URL (components/common/store.py), and there are no locks:

- claim.json is created first and reserves the number of a version; manifest.json is last and makes it complete.
- The pointer is never replaced: a change creates the next one, and of all processes that started from the same pointer only one
  can. The others change nothing that is in service and get a ConflictError.
- A retention creates a pointer too, which names the versions that it removes: nobody can put one of them into service.

A version is complete before the pointer names it, and the decision is recorded after both. Wherever a push is interrupted, the
old champion stays in service, and the next push of the same model continues from there.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.artifacts import MANIFEST, Manifest, now, read_manifest
from components.common.errors import ArtifactError, ConfigError, ConflictError, first_line
from components.common.numbered import numbered, numbers_in, read_created
from components.common.section import Frozen
from components.common.store import check_creates, store_at
from components.common.stored_artifacts import open_artifact, store_artifact

VERSIONS, POINTERS, DECISIONS = "versions", "champion", "decisions"
SCORES_FILE, SAMPLES_FILE = "scores.json", "samples.png"  # of a version, and of the evaluation that they come from
CLAIM = "claim.json"  # when, and by which push, the version number was reserved
VERSION_NAME = r"v\d{4,}"
ABANDONED_AFTER = datetime.timedelta(days=1)

RegistryLocation = Path | str  # a folder or a URL


class Pointer(Frozen):
    """The content of a pointer."""

    version: str
    digest: str
    model_digest: str
    published_at: str
    why: Literal["push", "rollback", "retention"] = "push"
    previous: str = ""  # the version in service before this one; `registry retain` keeps it
    removed: tuple[str, ...] = ()  # versions of which there may be files left, until a retention has removed all


class State(NamedTuple):
    """What decides whether a change is a conflict: the highest pointer number, and the pointer in service, if there is one."""

    number: int
    pointer: Pointer | None

    @property
    def removed(self) -> tuple[str, ...]:
        """The versions that do not exist although there may be files of them."""
        return self.pointer.removed if self.pointer else ()


class Champion(Pointer):
    """The version in service: the pointer to it, the size of its images, and its scores with their provenance."""

    image_size: int
    channels: int
    scores: dict[str, Any]


class Decision(BaseModel):
    """What was decided on a model, the checks, and everything that they depend on: evaluation, champion and rule."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # another version may add fields; another rule is decided on again
    decision: Literal["published", "kept"]
    reason: str
    version: str
    champion: str
    champion_digest: str
    champion_kid: float | None
    model_digest: str
    evaluation_digest: str
    rule: dict[str, float] = {}
    checks: tuple[dict[str, Any], ...] = ()
    decided_at: str


class Registry:
    """The registry in a folder or at a URL. Operations raise ArtifactError when it cannot be read or written."""

    def __init__(self, location: RegistryLocation) -> None:
        """Raise ConfigError for a URL that cannot hold a registry."""
        try:
            self._store = store_at(check_creates(str(location)))
        except ValueError as error:
            raise ConfigError(f"{location} cannot hold a registry: {error}.") from None
        self.location = self._store.location

    def check_exists(self) -> None:
        """Raise ConfigError if there is no registry."""
        if not self._store.names() & {VERSIONS, POINTERS, DECISIONS}:
            raise ConfigError(
                f"There is no registry in {self.location}.", "Name one with --registry; a run's is RUNS_DIR/registry."
            )

    def state(self, *, repair: bool = False) -> State:
        """Return the present state. Raises ArtifactError when the pointer is broken; with `repair`, it then counts as none.

        The version that the pointer names is not checked.
        """
        numbers = numbers_in(self._store, POINTERS)
        highest = max(numbers, default=0)
        for number in reversed(numbers):
            try:
                if content := read_created(self._store, numbered(POINTERS, number)):
                    return State(highest, Pointer.model_validate_json(content))
            except ValidationError as error:
                if not repair:
                    raise self._broken(numbered(POINTERS, number), f"it cannot be read ({first_line(error)})") from error
                break
        return State(highest, None)

    def champion(self, state: State | None = None) -> Champion | None:
        """Return the version in service, without checking its files; None if nothing was published yet.

        Raises ArtifactError when the pointer is broken, or names a version that is not there.
        """
        number, pointer = state or self.state()
        if pointer is None:
            return None
        name = numbered(POINTERS, number)
        if not re.fullmatch(VERSION_NAME, pointer.version):
            raise self._broken(name, f"it names {pointer.version!r}")
        try:
            manifest, scores = self.read_version(pointer.version)
        except ArtifactError as error:
            raise self._broken(name, f"its version {pointer.version} is damaged ({error.problem.rstrip('.')})") from error
        if manifest.digest != pointer.digest:
            raise self._broken(
                name, f"{pointer.version} has digest {manifest.digest[:12]}, {pointer.digest[:12]} was published"
            )
        details = {key: manifest.details[key] for key in ("image_size", "channels")}
        return Champion(**pointer.model_dump(), **details, scores=scores)

    def _broken(self, name: str, why: str) -> ArtifactError:
        return ArtifactError(
            f"The champion pointer {self.location}/{name} is broken: {why}.",
            "Point to a complete version with wgan-pipeline registry rollback VERSION, or use another push.registry.",
        )

    def version_location(self, version: str) -> str:
        """Return the path or URL of a version."""
        return f"{self.location}/{VERSIONS}/{version}"

    def versions(self, state: State) -> dict[str, bool]:
        """Return the versions, oldest first, and whether each is complete."""
        names = self._version_files()
        return {version: MANIFEST in files for version, files in names.items() if version not in state.removed}

    def _version_files(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for path in self._store.files(VERSIONS):
            version, _, name = path.removeprefix(f"{VERSIONS}/").partition("/")
            if re.fullmatch(VERSION_NAME, version):
                found.setdefault(version, set()).add(name)
        return dict(sorted(found.items(), key=lambda item: version_number(item[0])))

    def next_version(self) -> str:
        """Return the name after the highest there is, complete or not; numbers are never used twice."""
        return f"v{max(map(version_number, self._version_files()), default=0) + 1:04d}"

    def find_version(self, version: str, state: State) -> None:
        """Raise ConfigError that lists the complete versions if this one is not there."""
        versions = self.versions(state)
        if version not in versions:
            names = ", ".join(name for name, is_complete in versions.items() if is_complete) or "none"
            raise ConfigError(f"There is no version {version!r} in {self.location}; available: {names}.", "Name one of them.")

    def version_of_model(self, model_digest: str, evaluation_digest: str, state: State) -> str:
        """Return the version that an interrupted push made of this model and evaluation; empty if there is none.

        Only versions after the one in service are searched: the others were in service, or lost to those that were.
        """
        first = version_number(state.pointer.version) if state.pointer else 0
        for version, is_complete in self.versions(state).items():
            if is_complete and version_number(version) > first:
                inputs = self.read_version(version)[0].inputs
                if (inputs["model"], inputs["evaluation"]) == (model_digest, evaluation_digest):
                    return version
        return ""

    def read_version(self, version: str) -> tuple[Manifest, dict[str, Any]]:
        """Return a version's manifest and scores, without checking its files."""
        with open_artifact(
            self._store, f"{VERSIONS}/{version}", "version", only=(MANIFEST, SCORES_FILE), verify=False
        ) as folder:
            try:
                return read_manifest(folder, verify=False), json.loads((folder / SCORES_FILE).read_bytes())
            except (OSError, ValueError) as error:
                file = f"{self.version_location(version)}/{SCORES_FILE}"
                raise ArtifactError(
                    f"{file} cannot be read: {first_line(error)}.", "Put another version into service."
                ) from error

    def open_version(self, version: str) -> contextlib.AbstractContextManager[Path]:
        """Open the folder of a version, or a temporary copy, after checking every file. Raises ArtifactError."""
        cure = "Put another version into service with wgan-pipeline registry rollback VERSION, or use another push.registry."
        return open_artifact(self._store, f"{VERSIONS}/{version}", "version", cure=cure)

    def add_version(self, version: str, artifact: Path) -> Manifest:
        """Add a version with the files of a local artifact; it is not in service yet. Returns its manifest.

        Raises ConflictError when another process took its number.
        """
        claim = json.dumps({"at": now(), "by": uuid4().hex}).encode()
        if not self._store.create(f"{VERSIONS}/{version}/{CLAIM}", claim):
            raise self._conflict(f"took the version number {version}")
        return store_artifact(self._store, f"{VERSIONS}/{version}", artifact)

    def set_champion(self, version: str, manifest: Manifest, before: State, why: Literal["push", "rollback"]) -> Pointer:
        """Put a version into service that was complete in the state `before`, and return the new pointer.

        Raises ConflictError when another process changed the state first.
        """
        old = before.pointer
        pointer = Pointer(
            version=version,
            digest=manifest.digest,
            model_digest=manifest.inputs["model"],
            published_at=now(),
            why=why,
            previous="" if old is None else old.previous if old.version == version else old.version,
            removed=before.removed,
        )
        self._create_pointer(pointer, before)
        return pointer

    def _create_pointer(self, pointer: Pointer, before: State) -> None:
        content = pointer.model_dump_json(indent=1).encode()
        if not self._store.create(numbered(POINTERS, before.number + 1), content):
            raise self._conflict("moved the champion pointer")

    def _conflict(self, what: str) -> ConflictError:
        return ConflictError(f"Another process {what} in {self.location} at the same time; its change stands.", "Run again.")

    def remove_versions(self, versions: Sequence[str], before: State) -> None:
        """Remove versions that are not in service in the state `before`, and what earlier removals have left.

        Raises ConflictError, and removes nothing, when another process changed the state first.
        """
        if before.pointer is None:
            raise ArtifactError(
                f"Nothing is in service in {self.location}.", "Choose a version first: registry rollback VERSION."
            )
        removed = [version for version in self._version_files() if version in {*versions, *before.removed}]
        if not removed:
            return
        self._create_pointer(before.pointer.model_copy(update={"removed": tuple(removed), "why": "retention"}), before)
        for version in removed:
            self._store.delete(f"{VERSIONS}/{version}/{MANIFEST}")  # first: without it the version is not complete
            self._store.remove(f"{VERSIONS}/{version}")

    def is_abandoned(self, version: str) -> bool:
        """Return whether an incomplete version was begun more than a day ago, so that nobody will complete it."""
        try:
            claim = json.loads(self._store.read(f"{VERSIONS}/{version}/{CLAIM}"))
            at = datetime.datetime.fromisoformat(claim["at"])
        except FileNotFoundError:
            return False  # a mounted bucket may not show it yet
        except (ValueError, KeyError, TypeError):
            return True
        return datetime.datetime.now(datetime.UTC) - at > ABANDONED_AFTER

    def read_decision(self, model_digest: str) -> Decision | None:
        """Return the last decision on a model, or None."""
        name = f"{DECISIONS}/{model_digest}.json"
        try:
            return Decision.model_validate_json(self._store.read(name))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            problem = f"{self.location}/{name} cannot be read: {first_line(error)}."
            raise ArtifactError(problem, "Delete it and run again.") from error

    def write_decision(self, decision: Decision) -> None:
        """Record a decision in place of an earlier one on the same model."""
        self._store.write(f"{DECISIONS}/{decision.model_digest}.json", [decision.model_dump_json(indent=1).encode()])


def version_number(version: str) -> int:
    """Return the number in a version's name."""
    return int(version[1:])


def check_image_size(champion: Champion | None, location: str, image_size: int, channels: int) -> None:
    """Check that the champion of a registry, if there is one, makes images of this size. Raises ConfigError."""
    if champion is not None and (champion.image_size, champion.channels) != (image_size, channels):
        theirs = f"{champion.image_size}×{champion.image_size}×{champion.channels}"
        raise ConfigError(
            f"Champion {champion.version} in {location} makes {theirs} images, this run {image_size}×{image_size}×{channels}.",
            "Use another push.registry.",
        )
