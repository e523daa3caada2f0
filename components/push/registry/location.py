"""Opens a registry: a folder in place, under its lock; a URL as a local copy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.common.addresses import is_address, local_path
from components.common.errors import ConfigError
from components.common.locks import locked
from components.push.registry.registry import CHAMPION, LOCK, VERSIONS
from components.push.registry.remote import local_copy

RegistryLocation = Path | str  # a folder or a URL
LOCK_SECONDS = 60.0


@contextlib.contextmanager
def open_registry(
    location: RegistryLocation,
    *,
    change: bool = False,
    must_exist: bool = False,
    versions: Sequence[str] = (),
    model_digest: str = "",
) -> Iterator[Path]:
    """Yield the registry as a folder. With `change`, a folder is locked; changes to a copy are uploaded if the block succeeds.

    The copy of a URL has all files only of some versions: the named `versions` ("champion" and "previous" are those of the
    pointer) and those made from `model_digest`, whose decision it has too. Of the others it has manifest and scores.

    Raises ConfigError when the URL cannot hold a registry or, with `must_exist`, there is none; ArtifactError when it cannot be
    read, written or locked; ConflictError when another process changed what is at the URL first.
    """
    if is_address(str(location)):
        with local_copy(str(location), versions=versions, model_digest=model_digest, change=change) as folder:
            _check_exists(folder, must_exist)
            yield folder
        return
    folder = Path(local_path(str(location)))
    _check_exists(folder, must_exist)
    if not change:
        yield folder
        return
    cure = "Use a writable folder as push.registry."
    with locked(folder / LOCK, holder="Another push", wait_seconds=LOCK_SECONDS, cure=cure):
        yield folder


def _check_exists(folder: Path, must_exist: bool) -> None:
    if must_exist and not (folder / VERSIONS).is_dir() and not (folder / CHAMPION).exists():
        raise ConfigError(f"There is no registry in {folder}.", "Name one with --registry; a run's is RUNS_DIR/registry.")


def version_location(registry: RegistryLocation, version: str) -> str:
    """Return the path or URL of a version."""
    return f"{str(registry).rstrip('/')}/{VERSIONS}/{version}"
