"""What an operator does with a registry: look, go back to an earlier version, remove old ones."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from components.common.artifacts import MANIFEST, Manifest, read_manifest, remove_directory
from components.common.errors import ArtifactError, ConfigError
from components.push.registry.location import Place, check_exists, opened_to_change, opened_to_read
from components.push.registry.registry import (
    CLAIM,
    SCORES_FILE,
    VERSION_NAME,
    VERSIONS,
    Pointer,
    complete_versions,
    find_version,
    point_to,
    read_pointer,
)

ABANDONED_AFTER = datetime.timedelta(days=1)


class Version(NamedTuple):
    """One version: `fault` says why it cannot be used, `scores` are empty then."""

    name: str
    state: Literal["champion", "previous", ""]
    created_at: str
    scores: dict[str, Any]
    fault: str


def list_versions(registry: Place) -> list[Version]:
    """Return the versions, newest first; their files are not checked.

    Raises ConfigError where there is no registry, ArtifactError when the champion pointer cannot be read.
    """
    with opened_to_read(registry) as place:
        check_exists(place)
        pointer = read_pointer(place)
        folders = [folder for folder in (place / VERSIONS).glob("v*") if re.fullmatch(VERSION_NAME, folder.name)]
        found = [_version(folder, pointer) for folder in sorted(folders, key=_number, reverse=True)]
        return [each._replace(fault=each.fault.replace(str(place), str(registry).rstrip("/"))) for each in found]


def rollback(registry: Place, version: str = "") -> Pointer:
    """Point to `version`, else to the one that was in service before, and return the new pointer. The move is recorded.

    A broken pointer can be mended so, by naming the version. Raises ConfigError when there is no such version,
    ArtifactError when it is damaged.
    """
    with opened_to_change(registry, whole=[version or "previous"], must_exist=True) as place:
        before = _pointer_or_none(place) if version else read_pointer(place)
        target = version or (before.previous if before else "")
        if not target:
            raise ConfigError("No version was in service before this one.", "Name one: registry rollback VERSION.")
        if before is not None and before.version == target:
            raise ConfigError(f"{target} is in service already.", "wgan-pipeline registry list shows the others.")
        find_version(place, target)
        point_to(place, target, before, "rollback")
        after = read_pointer(place)
    assert after is not None  # it was written under the lock
    return after


def retain(registry: Place, keep: int, *, dry_run: bool = False) -> list[str]:
    """Remove all but the newest `keep` versions and return the names of what is removed, oldest first.

    The champion and the version before it always stay; what a push to an address has left unfinished for a day goes too.
    Raises ConfigError when `keep` is below 1: the highest number must stay, so that none is used twice.
    """
    if keep < 1:
        raise ConfigError(f"--keep {keep} would remove the newest version.", "Keep at least 1.")
    with opened_to_change(registry, whole=(), must_exist=True) as place:
        folders = sorted(complete_versions(place), key=_number)
        pointer = read_pointer(place)
        protected = {folder.name for folder in folders[-keep:]} | _in_use(pointer, folders)
        removed = [folder for folder in folders if folder.name not in protected]
        removed += [claim.parent for claim in sorted((place / VERSIONS).glob(f"v*/{CLAIM}")) if _is_abandoned(claim)]
        for folder in [] if dry_run else removed:
            _remove(folder)
    return [folder.name for folder in removed]


def show(registry: Place, version: str = "") -> tuple[Version, Manifest]:
    """Remove all but the newest `keep` versions and return the names of what is removed, oldest first.

    The champion and the version before it always stay; what a push to an address has left unfinished for a day goes too.
    Raises ConfigError when `keep` is below 1: the highest number must stay, so that none is used twice.
    """
    with opened_to_read(registry, whole=[version or "champion"]) as place:
        check_exists(place)
        pointer = read_pointer(place)
        name = version or (pointer.version if pointer else "")
        if not name:
            raise ConfigError(f"Nothing was published into {place} yet.", "wgan-pipeline registry list shows what is there.")
        folder = find_version(place, name)
        return _version(folder, pointer), read_manifest(folder, "version")


def _in_use(pointer: Pointer | None, folders: list[Path]) -> set[str]:
    if pointer is None:
        return set()
    older = [folder.name for folder in folders if _number(folder) < _number(Path(pointer.version))]
    # A pointer of an earlier program does not name the version before: the one below is what it most likely was.
    return {pointer.version, pointer.previous or (older[-1] if older else "")}


def _is_abandoned(claim: Path) -> bool:
    if (claim.parent / MANIFEST).exists():
        return False
    try:
        at = datetime.datetime.fromisoformat(json.loads(claim.read_bytes())["at"])
    except (ValueError, KeyError, TypeError):  # nobody's: whoever claims a number writes it in one piece
        return True
    return datetime.datetime.now(datetime.UTC) - at > ABANDONED_AFTER


def _remove(folder: Path) -> None:
    try:
        remove_directory(folder)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be removed: {error.strerror}.", "Make the registry writable.") from error


def _version(folder: Path, pointer: Pointer | None) -> Version:
    serving, before = (pointer.version, pointer.previous) if pointer else ("", "")
    state: Literal["champion", "previous", ""] = (
        "champion" if folder.name == serving else "previous" if folder.name == before else ""
    )
    try:
        manifest = read_manifest(folder, "version", verify=False)
        scores = json.loads((folder / SCORES_FILE).read_bytes())
    except (ArtifactError, OSError, ValueError) as error:
        fault = error.problem if isinstance(error, ArtifactError) else str(error)
        return Version(folder.name, state, "", {}, fault.rstrip("."))
    return Version(folder.name, state, manifest.created_at, scores, "")


def _pointer_or_none(registry: Path) -> Pointer | None:
    try:
        return read_pointer(registry)
    except ArtifactError:
        return None


def _number(folder: Path) -> int:
    return int(folder.name[1:])
