"""What an operator does with a registry: list versions, show one, roll back, remove old ones."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from components.common.artifacts import Manifest
from components.common.errors import ArtifactError, ConfigError
from components.registry.registry import Pointer, Registry, RegistryLocation, State, version_number

InService = Literal["champion", "previous", ""]


class Version(NamedTuple):
    """One version. `fault` says why it cannot be used; the scores are empty then."""

    name: str
    state: InService
    created_at: str
    scores: dict[str, Any]
    fault: str


def list_versions(location: RegistryLocation) -> list[Version]:
    """Return the versions, newest first, without checking their files.

    Raises ConfigError when there is no registry, ArtifactError when the champion pointer cannot be read.
    """
    registry = _existing(location)
    state = registry.state()
    versions = []
    for name in reversed(registry.versions(state)):
        try:
            manifest, scores = registry.read_version(name)
            versions.append(Version(name, _in_service(name, state), manifest.created_at, scores, ""))
        except ArtifactError as error:
            versions.append(Version(name, _in_service(name, state), "", {}, error.problem.rstrip(".")))
    return versions


def show(location: RegistryLocation, version: str = "") -> tuple[Version, Manifest]:
    """Return one version, by default the champion, and its manifest, after checking the digest of every file.

    Raises ConfigError when there is no such version, ArtifactError when it is damaged.
    """
    registry = _existing(location)
    state = registry.state()
    name = version or (state.pointer.version if state.pointer else "")
    if not name:
        raise ConfigError(
            f"Nothing was published into {registry.location} yet.", "wgan-pipeline registry list shows its versions."
        )
    registry.find_version(name, state)
    with registry.open_version(name):
        manifest, scores = registry.read_version(name)
    return Version(name, _in_service(name, state), manifest.created_at, scores, ""), manifest


def rollback(location: RegistryLocation, version: str = "") -> Pointer:
    """Put `version` into service, by default the one before the champion, and return the new pointer.

    With `version`, this also repairs a broken pointer. Raises ConfigError when there is no such version, ArtifactError when it
    is damaged, ConflictError when another process moved the pointer first.
    """
    registry = _existing(location)
    before = registry.state(repair=bool(version))
    target = version or (before.pointer.previous if before.pointer else "")
    if not target:
        raise ConfigError("No version was in service before this one.", "Name one: registry rollback VERSION.")
    if before.pointer is not None and before.pointer.version == target:
        raise ConfigError(f"{target} is in service already.", "wgan-pipeline registry list shows the others.")
    registry.find_version(target, before)
    with registry.open_version(target):
        manifest, _ = registry.read_version(target)
    return registry.set_champion(target, manifest, before, "rollback")


def retain(location: RegistryLocation, keep: int, *, dry_run: bool = False) -> list[str]:
    """Remove all but the newest `keep` versions and return the names of the removed ones, oldest first.

    The champion and the version before it always stay. Unfinished versions are removed after a day. Raises ConfigError when
    `keep` is below 1: the highest number must stay, so that none is used twice.
    """
    if keep < 1:
        raise ConfigError(f"--keep {keep} would remove the newest version.", "Keep at least 1.")
    registry = _existing(location)
    before = registry.state()
    versions = registry.versions(before)
    complete = [name for name, is_complete in versions.items() if is_complete]
    protected = {*complete[-keep:], *_needed(before, complete), *list(versions)[-1:]}
    removed = [
        name for name, is_complete in versions.items() if name not in protected and (is_complete or registry.is_abandoned(name))
    ]
    if not dry_run and (removed or before.removed):
        registry.remove_versions(removed, before)
    return removed


def _existing(location: RegistryLocation) -> Registry:
    registry = Registry(location)
    registry.check_exists()
    return registry


def _in_service(version: str, state: State) -> InService:
    if state.pointer is None:
        return ""
    return "champion" if version == state.pointer.version else "previous" if version == state.pointer.previous else ""


def _needed(state: State, complete: list[str]) -> set[str]:
    if state.pointer is None:
        return set()
    older = [name for name in complete if version_number(name) < version_number(state.pointer.version)]
    # A pointer that a rollback repaired does not name the previous version: most likely it was the next lower number.
    return {state.pointer.version, state.pointer.previous or (older[-1] if older else "")}
