"""Where a registry is: a folder, worked on in place under its lock, or an address, worked on in a copy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.common.addresses import is_address, local_path
from components.common.errors import ConfigError
from components.push.registry.registry import CHAMPION, VERSIONS, locked

Place = Path | str


@contextlib.contextmanager
def opened_to_read(registry: Place, *, whole: Sequence[str] = ()) -> Iterator[Path]:
    """Give the registry as a folder to read. Behind an address, only the versions in `whole` have all their files.

    "champion" and "previous" stand for the versions that the pointer names. Raises ConfigError for an address that can be
    no registry, ArtifactError for one that cannot be read.
    """
    if not is_address(str(registry)):
        yield Path(local_path(str(registry)))
        return
    from components.push.registry.remote import copied

    with copied(str(registry), whole=whole) as folder:
        yield folder


@contextlib.contextmanager
def opened_to_change(
    registry: Place, *, whole: Sequence[str] = ("champion",), model_digest: str = "", must_exist: bool = False
) -> Iterator[Path]:
    """Give the registry as a folder to change: nobody else does meanwhile, or else this one's changes come to nothing.

    `model_digest`: whose decision will be asked for. Raises ArtifactError as opened_to_read, where the lock is not to be had,
    and OvertakenError where another process changed what is behind the address; ConfigError with `must_exist` where there
    is no registry.
    """
    if not is_address(str(registry)):
        folder = Path(local_path(str(registry)))
        if must_exist:
            check_exists(folder)
        with locked(folder):
            yield folder
        return
    from components.push.registry.remote import copied

    with copied(str(registry), whole=whole, model_digest=model_digest, change=True) as folder:
        if must_exist:
            check_exists(folder)
        yield folder


def check_exists(folder: Path) -> None:
    """Raise ConfigError where a folder is no registry."""
    if not (folder / VERSIONS).is_dir() and not (folder / CHAMPION).exists():
        raise ConfigError(f"There is no registry in {folder}.", "Name one with --registry; a run's is RUNS_DIR/registry.")


def location_of(registry: Place, version: str) -> str:
    """Return path or address of a version."""
    return f"{str(registry).rstrip('/')}/{VERSIONS}/{version}"
