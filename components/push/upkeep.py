"""What an operator does with a registry: look, go back to an earlier version, remove old ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from components.artifacts import Manifest, read_manifest, remove_directory
from components.errors import ArtifactError, ConfigError
from components.push.registry import (
    CHAMPION,
    SCORES_FILE,
    VERSION_NAME,
    VERSIONS,
    Pointer,
    complete_versions,
    locked,
    point_to,
    read_pointer,
)


class Version(NamedTuple):
    """One version: `fault` says why it cannot be used, `scores` are empty then."""

    name: str
    state: Literal["champion", "previous", ""]
    created_at: str
    scores: dict[str, Any]
    fault: str


def list_versions(registry: Path, *, verify: bool = False) -> list[Version]:
    """Return the versions, newest first; with `verify` every file is checked against its digest.

    Raises ConfigError where there is no registry, ArtifactError when the champion pointer cannot be read.
    """
    _check_exists(registry)
    pointer = read_pointer(registry)
    folders = [folder for folder in (registry / VERSIONS).glob("v*") if re.fullmatch(VERSION_NAME, folder.name)]
    return [_version(folder, pointer, verify) for folder in sorted(folders, key=_number, reverse=True)]


def rollback(registry: Path, version: str = "") -> Pointer:
    """Point to `version`, else to the one that was in service before, and return the new pointer. The move is recorded.

    A broken pointer can be mended so, by naming the version. Raises ConfigError when there is no such version,
    ArtifactError when it is damaged.
    """
    _check_exists(registry)
    with locked(registry):
        before = _pointer_or_none(registry) if version else read_pointer(registry)
        target = version or (before.previous if before else "")
        if not target:
            raise ConfigError("No version was in service before this one.", "Name one: registry rollback VERSION.")
        if before is not None and before.version == target:
            raise ConfigError(f"{target} is in service already.", "wgan-pipeline registry list shows the others.")
        _check_version(registry, target)
        point_to(registry, target, before, "rollback")
        after = read_pointer(registry)
    assert after is not None  # it was written under the lock
    return after


def retain(registry: Path, keep: int, *, dry_run: bool = False) -> list[str]:
    """Remove all but the newest `keep` versions and return the names of what is removed, oldest first.

    The champion and the version before it always stay. Raises ConfigError when `keep` is below 1: the highest number must
    stay, so that none is used twice.
    """
    if keep < 1:
        raise ConfigError(f"--keep {keep} would remove the newest version.", "Keep at least 1.")
    _check_exists(registry)
    with locked(registry):
        folders = sorted(complete_versions(registry), key=_number)
        pointer = read_pointer(registry)
        protected = {folder.name for folder in folders[-keep:]} | _in_use(pointer, folders)
        removed = [folder for folder in folders if folder.name not in protected]
        for folder in [] if dry_run else removed:
            _remove(folder)
    return [folder.name for folder in removed]


def show(registry: Path, version: str = "") -> tuple[Version, Manifest]:
    """Return a version (else the champion) and its manifest, every file checked. Raises ConfigError and ArtifactError."""
    _check_exists(registry)
    pointer = read_pointer(registry)
    name = version or (pointer.version if pointer else "")
    if not name:
        raise ConfigError(f"Nothing was published into {registry} yet.", "wgan-pipeline registry list shows what is there.")
    folder = _check_version(registry, name)
    return _version(folder, pointer, verify=False), read_manifest(folder, "version")


def _in_use(pointer: Pointer | None, folders: list[Path]) -> set[str]:
    if pointer is None:
        return set()
    older = [folder.name for folder in folders if _number(folder) < _number(Path(pointer.version))]
    # A pointer of an earlier program does not name the version before: the one below is what it most likely was.
    return {pointer.version, pointer.previous or (older[-1] if older else "")}


def _remove(folder: Path) -> None:
    try:
        remove_directory(folder)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be removed: {error.strerror}.", "Make the registry writable.") from error


def _version(folder: Path, pointer: Pointer | None, verify: bool) -> Version:
    serving, before = (pointer.version, pointer.previous) if pointer else ("", "")
    state: Literal["champion", "previous", ""] = (
        "champion" if folder.name == serving else "previous" if folder.name == before else ""
    )
    try:
        manifest = read_manifest(folder, "version", verify=verify)
        scores = json.loads((folder / SCORES_FILE).read_bytes())
    except (ArtifactError, OSError, ValueError) as error:
        fault = error.problem if isinstance(error, ArtifactError) else str(error)
        return Version(folder.name, state, "", {}, fault.rstrip("."))
    return Version(folder.name, state, manifest.created_at, scores, "")


def _check_exists(registry: Path) -> None:
    if not (registry / VERSIONS).is_dir() and not (registry / CHAMPION).exists():
        raise ConfigError(f"There is no registry in {registry}.", "Name one with --registry; a run's is RUNS_DIR/registry.")


def _check_version(registry: Path, version: str) -> Path:
    folder = registry / VERSIONS / version
    if not re.fullmatch(VERSION_NAME, version) or not folder.is_dir():
        names = ", ".join(each.name for each in complete_versions(registry)) or "none"
        raise ConfigError(f"There is no version {version!r} in {registry}; there are: {names}.", "Name one of them.")
    return folder


def _pointer_or_none(registry: Path) -> Pointer | None:
    try:
        return read_pointer(registry)
    except ArtifactError:
        return None


def _number(folder: Path) -> int:
    return int(folder.name[1:])
