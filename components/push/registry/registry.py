"""A registry: versions, the pointer to the one in service (the champion), and a record of every decision.

    versions/v0001/{saved_model/, scores.json, samples.png, model_card.{md,html}, manifest.json}
    champion.json         names the version in service and the one before it; replaced atomically
    decisions/DIGEST.json one for each model that was decided on
    moves/TIME.json       one for each time the pointer was moved, by a push or a rollback
    .lock                 held while a push decides and publishes

Order makes it safe: a version is complete before the pointer names it, and the decision is recorded after both.
Wherever a push is interrupted, the old champion stays, and the next push of the same model goes on from there.
"""

from __future__ import annotations

import json
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from components.common import locks
from components.common.artifacts import MANIFEST, now, read_manifest, remove_leftovers, write_json, write_text
from components.common.errors import ArtifactError, ConfigError, first_line

VERSIONS, CHAMPION, DECISIONS, MOVES, LOCK = "versions", "champion.json", "decisions", "moves", ".lock"
CLAIM = "claim.json"  # only behind an address: the number is taken, by whom and when
SCORES_FILE, SAMPLES_FILE = "scores.json", "samples.png"
LOCK_SECONDS = 60.0
VERSION_NAME = r"v\d{4,}"


class OvertakenError(ArtifactError):
    """Another process changed the registry meanwhile: what is in service is its business now."""


class Pointer(BaseModel):
    """The content of champion.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: str
    digest: str
    model_digest: str
    published_at: str
    previous: str = ""  # the version that was in service before; retention keeps it


class Champion(BaseModel):
    """The version in service: where it lies, the images it makes, its scores with their provenance."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: str
    path: Path
    digest: str
    model_digest: str
    published_at: str
    previous: str
    image_size: int
    channels: int
    scores: dict[str, Any]


class Decision(BaseModel):
    """What was decided on a model, and what the decision rests on: its scores, the champion, the rule."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # an older record without a rule is read, and decided on again
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


def locked(registry: Path) -> AbstractContextManager[None]:
    """Hold the registry's lock, waiting up to 60 seconds for it. Raises ArtifactError."""
    cure = "Name a writable folder with push.registry."
    return locks.locked(registry / LOCK, holder="Another push", wait_seconds=LOCK_SECONDS, cure=cure)


def read_champion(registry: Path) -> Champion | None:
    """Return the version in service, every file checked against its digest, or None where nothing was published yet.

    Raises ArtifactError when the pointer cannot be read or the version it names is missing or damaged.
    """
    file = registry / CHAMPION
    pointer = read_pointer(registry)
    if pointer is None:
        return None
    folder = registry / VERSIONS / pointer.version
    if not re.fullmatch(VERSION_NAME, pointer.version) or not folder.is_dir():
        raise _broken(file, f"it names {pointer.version!r}, which is not in {registry / VERSIONS}")
    try:
        manifest = read_manifest(folder, "version")
        scores = json.loads((folder / SCORES_FILE).read_bytes())
    except (ArtifactError, OSError, ValueError) as error:
        problem = error.problem if isinstance(error, ArtifactError) else str(error)
        raise _broken(file, f"its version {pointer.version} is damaged ({problem.rstrip('.')})") from error
    if manifest.digest != pointer.digest:
        raise _broken(file, f"{pointer.version} has digest {manifest.digest[:12]}, {pointer.digest[:12]} was published")
    return Champion(
        **pointer.model_dump(),
        path=folder,
        image_size=manifest.details["image_size"],
        channels=manifest.details["channels"],
        scores=scores,
    )


def read_pointer(registry: Path) -> Pointer | None:
    """Return what champion.json says, or None where nothing was published yet; the version is not looked at.

    Raises ArtifactError when it cannot be read.
    """
    file = registry / CHAMPION
    try:
        return Pointer.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise _broken(file, f"it cannot be read ({first_line(error)})") from error


def _broken(file: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"The champion pointer {file} is broken: {why}.",
        "Point to a whole version with wgan-pipeline registry rollback VERSION, or name another push.registry.",
    )


def check_image_size(champion: Champion, image_size: int, channels: int) -> None:
    """Refuse to compare with a champion of other images. Raises ConfigError."""
    if (champion.image_size, champion.channels) != (image_size, channels):
        registry = champion.path.parent.parent
        theirs = f"{champion.image_size}×{champion.image_size}×{champion.channels}"
        ours = f"{image_size}×{image_size}×{channels}"
        raise ConfigError(
            f"Champion {champion.version} in {registry} makes {theirs} images, this run {ours}.",
            "Name another push.registry.",
        )


def version_of_model(registry: Path, model_digest: str, evaluation_digest: str) -> str | None:
    """Return the version made from this very model and evaluation, or None: a push may have been cut off after it."""
    for folder in complete_versions(registry):
        manifest = read_manifest(folder, "version", verify=False)
        if (manifest.inputs["model"], manifest.inputs["evaluation"]) == (model_digest, evaluation_digest):
            return folder.name
    return None


def next_version(registry: Path) -> str:
    """Return the name after the highest there is; numbers are never used twice."""
    begun = (registry / VERSIONS).glob("v*")  # behind an address a push that was cut off leaves a number without a version
    numbers = [int(folder.name[1:]) for folder in begun if re.fullmatch(VERSION_NAME, folder.name)]
    return f"v{max(numbers, default=0) + 1:04d}"


def complete_versions(registry: Path) -> list[Path]:
    """Return the folders of the versions that have a manifest, oldest first."""
    complete = [file.parent for file in (registry / VERSIONS).glob(f"v*/{MANIFEST}")]
    return sorted(folder for folder in complete if re.fullmatch(VERSION_NAME, folder.name))


def find_version(registry: Path, version: str) -> Path:
    """Return the folder of a version; its files are not checked. Raises ConfigError that names those there are."""
    folder = registry / VERSIONS / version
    if not re.fullmatch(VERSION_NAME, version) or not folder.is_dir():
        names = ", ".join(each.name for each in complete_versions(registry)) or "none"
        raise ConfigError(f"There is no version {version!r} in {registry}; there are: {names}.", "Name one of them.")
    return folder


def point_to(registry: Path, version: str, before: Pointer | None, why: Literal["push", "rollback"] = "push") -> None:
    """Make a complete version the champion, and record the move from `before`. Raises ArtifactError when it is damaged."""
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
    # After the pointer, and saying nothing that the pointer does not: a move without a record is no fault.
    move = {"at": pointer.published_at, "version": version, "previous": previous, "why": why}
    write_json(registry / MOVES / f"{pointer.published_at.replace(':', '')}.json", move)


def remove_what_was_cut_off(registry: Path) -> None:
    """Remove what a push that was killed left behind; only while the lock is held."""
    for folder in (registry, registry / VERSIONS, registry / DECISIONS, registry / MOVES):
        remove_leftovers(folder)
        remove_leftovers(folder, ending="old")


def read_decision(registry: Path, model_digest: str) -> Decision | None:
    """Return what was decided on a model before, or None. Raises ArtifactError when the record cannot be read."""
    file = _decision_file(registry, model_digest)
    try:
        return Decision.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{file} cannot be read: {first_line(error)}.", "Delete it and run again.") from error


def write_decision(registry: Path, decision: Decision) -> None:
    """Record a decision; the last one on a model replaces the one before. Raises ArtifactError."""
    write_text(_decision_file(registry, decision.model_digest), decision.model_dump_json(indent=1))


def _decision_file(registry: Path, model_digest: str) -> Path:
    return registry / DECISIONS / f"{model_digest}.json"
