"""A registry: published versions, the pointer to the version in service (the champion), and a record of every decision.

    versions/v0001/{saved_model/, scores.json, samples.png, model_card.{md,html}, manifest.json}
    champion.json         names the version in service and the one before it; replaced atomically
    decisions/DIGEST.json one for each model that was decided on
    moves/TIME.json       one for each time the pointer was moved, by a push or a rollback
    .lock                 held while a push decides and publishes

The order of writes makes it safe: a version is complete before the pointer names it, and the decision is recorded after both.
Wherever a push is interrupted, the old champion stays in service, and the next push of the same model continues from there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.artifacts import MANIFEST, Manifest, now, read_manifest, remove_leftovers, write_json, write_text
from components.common.errors import ArtifactError, ConfigError, first_line
from components.push.candidate import SCORES_FILE

VERSIONS, CHAMPION, DECISIONS, MOVES, LOCK = "versions", "champion.json", "decisions", "moves", ".lock"
CLAIM = "claim.json"  # in an object store only: which push reserved the version number, and when
VERSION_NAME = r"v\d{4,}"


class ConflictError(ArtifactError):
    """Another process changed the registry at the same time; its change stands and ours was not made."""


class Pointer(BaseModel):
    """The content of champion.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: str
    digest: str
    model_digest: str
    published_at: str
    previous: str = ""  # the version in service before this one; `registry retain` keeps it


class Champion(Pointer):
    """The version in service: the pointer to it, its folder, the size of its images, and its scores with their provenance."""

    path: Path
    image_size: int
    channels: int
    scores: dict[str, Any]


class Decision(BaseModel):
    """What was decided on a model, and everything the decision depends on: evaluation, champion and rule."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # records of earlier releases differ in `rule`: decided on again
    decision: Literal["published", "kept"]
    reason: str
    version: str
    champion: str
    champion_digest: str
    champion_kid: float | None
    model_digest: str
    evaluation_digest: str
    rule: dict[str, float] = {}
    decided_at: str


def read_champion(registry: Path, *, verify: bool = True) -> Champion | None:
    """Return the version in service, or None if nothing was published yet; `verify` checks every file.

    Raises ArtifactError when the pointer cannot be read or its version is missing or damaged.
    """
    pointer = read_pointer(registry)
    if pointer is None:
        return None
    folder = registry / VERSIONS / pointer.version
    if not re.fullmatch(VERSION_NAME, pointer.version) or not folder.is_dir():
        raise _broken(registry, f"it names {pointer.version!r}, which is not in {registry / VERSIONS}")
    try:
        manifest, scores = read_version(folder, verify=verify)
    except ArtifactError as error:
        raise _broken(registry, f"its version {pointer.version} is damaged ({error.problem.rstrip('.')})") from error
    if manifest.digest != pointer.digest:
        raise _broken(registry, f"{pointer.version} has digest {manifest.digest[:12]}, {pointer.digest[:12]} was published")
    details = {name: manifest.details[name] for name in ("image_size", "channels")}
    return Champion(**pointer.model_dump(), **details, path=folder, scores=scores)


def read_pointer(registry: Path) -> Pointer | None:
    """Return the content of champion.json, or None if nothing was published yet. Raises ArtifactError when it is broken.

    The version that it names is not checked.
    """
    try:
        return Pointer.model_validate_json((registry / CHAMPION).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise _broken(registry, f"it cannot be read ({first_line(error)})") from error


def read_version(folder: Path, *, verify: bool = True) -> tuple[Manifest, dict[str, Any]]:
    """Return a version's manifest and scores; `verify` checks every file. Raises ArtifactError when it is damaged."""
    manifest = read_manifest(folder, "version", verify=verify)
    file = folder / SCORES_FILE
    try:
        return manifest, json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read: {first_line(error)}.", "Put another version into service.") from error


def _broken(registry: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"The champion pointer {registry / CHAMPION} is broken: {why}.",
        "Point to a complete version with wgan-pipeline registry rollback VERSION, or use another push.registry.",
    )


def check_image_size(champion: Champion | None, image_size: int, channels: int) -> None:
    """Check that the champion, if there is one, makes images of this size. Raises ConfigError."""
    if champion is not None and (champion.image_size, champion.channels) != (image_size, channels):
        theirs = f"{champion.image_size}×{champion.image_size}×{champion.channels}"
        raise ConfigError(
            f"Champion {champion.version} in {champion.path.parent.parent} makes {theirs} images, "
            f"this run {image_size}×{image_size}×{channels}.",
            "Use another push.registry.",
        )


def version_of_model(registry: Path, model_digest: str, evaluation_digest: str) -> str:
    """Return the version that an interrupted push made of this model and evaluation; empty if there is none."""
    for folder in complete_versions(registry):
        inputs = read_manifest(folder, "version", verify=False).inputs
        if (inputs["model"], inputs["evaluation"]) == (model_digest, evaluation_digest):
            return folder.name
    return ""


def next_version(registry: Path) -> str:
    """Return the name after the highest there is, complete or not; numbers are never used twice."""
    return f"v{max(map(version_number, version_folders(registry)), default=0) + 1:04d}"


def version_folders(registry: Path) -> list[Path]:
    """Return the folders of all versions, oldest first. In an object store an interrupted push leaves an incomplete one."""
    folders = [folder for folder in (registry / VERSIONS).glob("v*") if re.fullmatch(VERSION_NAME, folder.name)]
    return sorted(folders, key=version_number)


def complete_versions(registry: Path) -> list[Path]:
    """Return the folders of the versions that have a manifest, oldest first."""
    return [folder for folder in version_folders(registry) if (folder / MANIFEST).exists()]


def version_number(folder: Path) -> int:
    """Return the number in a version's name."""
    return int(folder.name[1:])


def find_version(registry: Path, version: str) -> Path:
    """Return the folder of a version without checking its files. Raises ConfigError that lists the existing versions."""
    folder = registry / VERSIONS / version
    if not re.fullmatch(VERSION_NAME, version) or not folder.is_dir():
        names = ", ".join(each.name for each in complete_versions(registry)) or "none"
        raise ConfigError(f"There is no version {version!r} in {registry}; available: {names}.", "Name one of them.")
    return folder


def set_champion(registry: Path, version: str, before: Pointer | None, why: Literal["push", "rollback"] = "push") -> Pointer:
    """Put a complete version into service, record the move from `before`, and return the new pointer.

    Raises ArtifactError when the version is damaged.
    """
    manifest = read_manifest(registry / VERSIONS / version, "version")
    previous = "" if before is None else before.previous if before.version == version else before.version
    pointer = Pointer(
        version=version,
        digest=manifest.digest,
        model_digest=manifest.inputs["model"],
        published_at=now(),
        previous=previous,
    )
    write_json(registry / CHAMPION, pointer.model_dump())
    # Written after the pointer, and repeats only what the pointer says: a missing move record is harmless.
    move = {"at": pointer.published_at, "version": version, "previous": previous, "why": why}
    write_json(registry / MOVES / f"{pointer.published_at.replace(':', '')}.json", move)
    return pointer


def remove_partial_writes(registry: Path) -> None:
    """Remove the temporary files of pushes that were killed. Call only while the lock is held."""
    for folder in (registry, registry / VERSIONS, registry / DECISIONS, registry / MOVES):
        remove_leftovers(folder)


def read_decision(registry: Path, model_digest: str) -> Decision | None:
    """Return the last decision on a model, or None. Raises ArtifactError when its record cannot be read."""
    file = _decision_file(registry, model_digest)
    try:
        return Decision.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{file} cannot be read: {first_line(error)}.", "Delete it and run again.") from error


def write_decision(registry: Path, decision: Decision) -> None:
    """Record a decision in place of an earlier one on the same model. Raises ArtifactError."""
    write_text(_decision_file(registry, decision.model_digest), decision.model_dump_json(indent=1))


def _decision_file(registry: Path, model_digest: str) -> Path:
    return registry / DECISIONS / f"{model_digest}.json"
