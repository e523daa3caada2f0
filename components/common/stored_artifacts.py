"""An artifact in a store: copied there from a local folder, its manifest last, and read in place or from a local copy.

Each file is created, never replaced, and synced to a disk. An artifact without a manifest does not exist, so it does not matter
where a process that copies one is killed.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from components.common.artifacts import MANIFEST, Manifest, read_manifest, write_bytes
from components.common.errors import ArtifactError, ConflictError
from components.common.store import Folder, Store


def store_artifact(store: Store, name: str, artifact: Path) -> Manifest:
    """Copy a local artifact to the folder `name` of the store, and return its manifest.

    Raises ArtifactError when it cannot be written, ConflictError when another process writes to the same folder.
    """
    manifest = read_manifest(artifact)
    for file in manifest.files:
        _create(store, f"{name}/{file}", artifact / file)
    sizes = store.files(name)
    for file, entry in manifest.files.items():
        if (size := sizes.get(f"{name}/{file}")) != entry.bytes:
            raise ArtifactError(
                f"{store.location}/{name}/{file} has {size} bytes after its upload instead of {entry.bytes}.", "Run again."
            )
    _create(store, f"{name}/{MANIFEST}", artifact / MANIFEST)
    return manifest


def _create(store: Store, name: str, file: Path) -> None:
    if not store.create(name, file.read_bytes()):
        raise ConflictError(f"Another process wrote {store.location}/{name} at the same time.", "Run again.")


@contextlib.contextmanager
def open_artifact(store: Store, name: str, kind: str, *, only: Sequence[str] = (), verify: bool = True) -> Iterator[Path]:
    """Yield the folder of an artifact, or a temporary copy of it, with `verify` after every file was checked.

    `only` names the files that a copy needs. Raises ArtifactError when the artifact is not complete or damaged.
    """
    if isinstance(store, Folder):
        folder = store.path / name
        read_manifest(folder, kind, verify=verify)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix=f"{kind}-") as temporary:
        folder = Path(temporary) / PurePosixPath(name).name
        for each in only or [each.removeprefix(f"{name}/") for each in store.files(name)]:
            _check_relative(store, name, each)
            with contextlib.suppress(FileNotFoundError):  # reported below
                write_bytes(folder / each, store.read(f"{name}/{each}"))
        try:
            read_manifest(folder, kind, verify=verify)
        except ArtifactError as error:
            raise ArtifactError(error.problem.replace(str(folder), f"{store.location}/{name}"), error.cure) from None
        yield folder


def _check_relative(store: Store, name: str, file: str) -> None:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise ArtifactError(
            f"{store.location}/{name} holds an object named {file!r}.", "Remove it: no artifact has such a file."
        )
