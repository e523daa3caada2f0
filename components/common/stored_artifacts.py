"""An artifact in a store: written in place or copied there, its manifest last, and read in place or from a local copy.

Each file is created, never replaced, and synced to a disk. An artifact without a manifest does not exist, so it does not matter
where a process that copies one is killed.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel

from components.common.artifacts import (
    MANIFEST,
    ArtifactWriter,
    Manifest,
    new_artifact,
    read_manifest,
    remove_artifact,
    write_bytes,
)
from components.common.errors import ArtifactError, ConflictError, UnreachableError
from components.common.store import Folder, Store


@contextlib.contextmanager
def new_stored_artifact(
    store: Store, name: str, kind: str, *, config: BaseModel, inputs: Mapping[str, Path] | None = None
) -> Iterator[ArtifactWriter]:
    """Write the artifact `name` of the store as new_artifact does: in place in a folder, else by a copy from a temporary one.

    Other processes must be kept away, because what is there is removed first. Raises ArtifactError when it cannot be written.
    """
    if isinstance(store, Folder):
        with new_artifact(store.path / name, kind, config=config, inputs=inputs) as writer:
            yield writer
        return
    with tempfile.TemporaryDirectory(prefix=f"{kind}-") as temporary:
        folder = Path(temporary) / PurePosixPath(name).name
        with new_artifact(folder, kind, config=config, inputs=inputs) as writer:
            yield writer
        remove_stored(store, name)
        store_artifact(store, name, folder)


def remove_stored(store: Store, name: str) -> None:
    """Remove an artifact of the store, or what there is of it: the manifest first, so that the rest does not exist."""
    if isinstance(store, Folder):
        remove_artifact(store.path / name)
    elif files := store.files(name):
        if f"{name}/{MANIFEST}" in files:
            store.delete(f"{name}/{MANIFEST}")
        store.remove(name)


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
def open_artifact(
    store: Store, name: str, kind: str, *, only: Sequence[str] = (), verify: bool = True, cure: str = ""
) -> Iterator[Path]:
    """Yield the folder of an artifact, or a temporary copy of it, with `verify` after every file was checked.

    `only` names the files that a copy needs. Raises ArtifactError, which names the `cure`, when the artifact is not complete or
    damaged.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(store, Folder):
            folder = store.path / name
        else:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{kind}-"))
            folder = Path(temporary) / PurePosixPath(name).name
            _download(store, name, folder, only)
        try:
            read_manifest(folder, kind, verify=verify)
        except ArtifactError as error:
            problem = error.problem.replace(str(folder), f"{store.location}/{name}")
            raise ArtifactError(problem, cure or error.cure) from None
        yield folder


def _download(store: Store, name: str, folder: Path, only: Sequence[str]) -> None:
    """Copy the files of an artifact that exist to a local folder; of `only`, if any are named."""
    for file in only or [each.removeprefix(f"{name}/") for each in store.files(name)]:
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts:
            raise ArtifactError(
                f"{store.location}/{name} holds an object named {file!r}.", "Remove it: no artifact has such a file."
            )
        with contextlib.suppress(FileNotFoundError):
            content = store.read(f"{name}/{file}")
            try:
                write_bytes(folder / file, content)
            except ArtifactError as error:  # this machine's disk, not a damaged artifact
                raise UnreachableError(error.problem, error.cure) from error


def newest_artifact(store: Store, folder: str, wanted: Callable[[Manifest], bool]) -> str:
    """Return the name of the newest `wanted` artifact below a folder, "" if there is none; damaged manifests are ignored."""
    sizes = {name: size for name, size in store.files(folder).items() if name.endswith(f"/{MANIFEST}")}
    found = [("", "")]
    with store.spans((name, 0, size) for name, size in sizes.items()) as read:  # all at once
        for name, size in sizes.items():
            with contextlib.suppress(ValueError):  # damaged
                manifest = Manifest.model_validate_json(read(name, 0, size))
                if wanted(manifest):
                    found.append((manifest.created_at, name.removesuffix(f"/{MANIFEST}")))
    return max(found)[1]
