"""What an operator does with a registry: list versions, show one, roll back, remove old ones."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from components.common.artifacts import MANIFEST, Manifest, remove_artifact
from components.common.errors import ArtifactError, ConfigError
from components.push.registry.location import RegistryLocation, open_registry
from components.push.registry.registry import (
    CLAIM,
    VERSIONS,
    Pointer,
    complete_versions,
    find_version,
    read_pointer,
    read_version,
    set_champion,
    version_folders,
    version_number,
)

ABANDONED_AFTER = datetime.timedelta(days=1)
State = Literal["champion", "previous", ""]


class Version(NamedTuple):
    """One version. `fault` says why it cannot be used; the scores are empty then."""

    name: str
    state: State
    created_at: str
    scores: dict[str, Any]
    fault: str


def list_versions(registry: RegistryLocation) -> list[Version]:
    """Return the versions, newest first, without checking their files.

    Raises ConfigError when there is no registry, ArtifactError when the champion pointer cannot be read.
    """
    with open_registry(registry, must_exist=True) as copy:
        pointer = read_pointer(copy)
        versions = []
        for folder in reversed(version_folders(copy)):
            try:
                manifest, scores = read_version(folder, verify=False)
                versions.append(Version(folder.name, _state(folder, pointer), manifest.created_at, scores, ""))
            except ArtifactError as error:
                fault = error.problem.rstrip(".").replace(str(copy), str(registry).rstrip("/"))
                versions.append(Version(folder.name, _state(folder, pointer), "", {}, fault))
        return versions


def show(registry: RegistryLocation, version: str = "") -> tuple[Version, Manifest]:
    """Return one version, by default the champion, and its manifest, after checking the digest of every file.

    Raises ConfigError when there is no such version, ArtifactError when it is damaged.
    """
    with open_registry(registry, must_exist=True, versions=[version or "champion"]) as copy:
        pointer = read_pointer(copy)
        if not version and pointer is None:
            raise ConfigError(f"Nothing was published into {copy} yet.", "wgan-pipeline registry list shows its versions.")
        folder = find_version(copy, version or (pointer.version if pointer else ""))
        manifest, scores = read_version(folder)
        return Version(folder.name, _state(folder, pointer), manifest.created_at, scores, ""), manifest


def rollback(registry: RegistryLocation, version: str = "") -> Pointer:
    """Put `version` into service, by default the one before the champion, and return the new pointer. The move is recorded.

    With `version`, this also repairs a broken pointer. Raises ConfigError when there is no such version, ArtifactError when it
    is damaged.
    """
    with open_registry(registry, change=True, must_exist=True, versions=[version or "previous"]) as copy:
        try:
            before = read_pointer(copy)
        except ArtifactError:
            if not version:
                raise
            before = None
        target = version or (before.previous if before else "")
        if not target:
            raise ConfigError("No version was in service before this one.", "Name one: registry rollback VERSION.")
        if before is not None and before.version == target:
            raise ConfigError(f"{target} is in service already.", "wgan-pipeline registry list shows the others.")
        find_version(copy, target)
        return set_champion(copy, target, before, "rollback")


def retain(registry: RegistryLocation, keep: int, *, dry_run: bool = False) -> list[str]:
    """Remove all but the newest `keep` versions and return the names of the removed ones, oldest first.

    The champion and the version before it always stay. Unfinished versions at a URL are removed after a day. Raises ConfigError
    when `keep` is below 1: the highest number must stay, so that none is used twice.
    """
    if keep < 1:
        raise ConfigError(f"--keep {keep} would remove the newest version.", "Keep at least 1.")
    with open_registry(registry, change=True, must_exist=True) as copy:
        folders = complete_versions(copy)
        protected = {folder.name for folder in folders[-keep:]} | _in_use(read_pointer(copy), folders)
        removed = [folder for folder in folders if folder.name not in protected]
        removed += [claim.parent for claim in sorted((copy / VERSIONS).glob(f"v*/{CLAIM}")) if _is_abandoned(claim)]
        for folder in [] if dry_run else removed:
            try:
                remove_artifact(folder)
            except OSError as error:
                raise ArtifactError(f"{folder} cannot be removed: {error.strerror}.", "Make the registry writable.") from error
    return [folder.name for folder in removed]


def _state(folder: Path, pointer: Pointer | None) -> State:
    if pointer is None:
        return ""
    return "champion" if folder.name == pointer.version else "previous" if folder.name == pointer.previous else ""


def _in_use(pointer: Pointer | None, folders: list[Path]) -> set[str]:
    if pointer is None:
        return set()
    older = [folder.name for folder in folders if version_number(folder) < version_number(Path(pointer.version))]
    # A pointer that a rollback repaired does not name the previous version: most likely it was the next lower number.
    return {pointer.version, pointer.previous or (older[-1] if older else "")}


def _is_abandoned(claim: Path) -> bool:
    if (claim.parent / MANIFEST).exists():
        return False
    try:
        at = datetime.datetime.fromisoformat(json.loads(claim.read_bytes())["at"])
    except (ValueError, KeyError, TypeError):  # not a claim: a claim is written in one piece
        return True
    return datetime.datetime.now(datetime.UTC) - at > ABANDONED_AFTER
