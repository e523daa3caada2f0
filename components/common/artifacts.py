"""Artifacts are directories with a manifest of digests, which is written last: without a manifest an artifact does not exist.

An artifact is written in place. No directory is renamed, since a mounted bucket cannot do that. A writer first removes what an
earlier attempt left, its manifest before everything else, so a step that is killed leaves nothing that looks finished.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
from collections.abc import Collection, Container, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError

from components.common.errors import ArtifactError, first_line
from components.common.section import Frozen
from components.common.store import Folder, writing

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
COPY_BYTES = 1 << 20
SHARED_ROOMS = ("common", "dataset", "generator")  # their code is part of every component's code digest
CALLS = {  # the components whose code another one calls
    "validate": ("ingest",),
    "tpu_check": ("train",),
    "train": ("evaluate",),
    "gate": ("evaluate", "registry"),
    "push": ("evaluate", "gate", "registry"),
}
PACKAGES_IN_CODE_DIGEST = (
    "tensorflow",
    "keras",
    "numpy",
    "apache-beam",
    "tensorflow-datasets",
    "pillow",
    "scikit-learn",
    "scipy",
)


class FileEntry(Frozen):
    """Size and digest of one file of an artifact."""

    bytes: int
    sha256: str


class Manifest(Frozen):
    """The content of manifest.json: what an artifact is, what it was made from, and the digest of each of its files."""

    schema_version: int
    kind: str
    digest: str
    created_at: str
    code_digest: str
    config: dict[str, Any]
    inputs: dict[str, str]
    counts: dict[str, int]
    details: dict[str, Any]
    files: dict[str, FileEntry]


class HashingFile(io.BufferedIOBase):
    """A new file that is written from start to end; computes the digest meanwhile, so that the file need not be read again."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self._hash = hashlib.sha256()
        self._size = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Append bytes."""
        size = self._stream.write(data)
        self._hash.update(data)
        self._size += size
        return size

    def close(self) -> None:
        """Sync the file to the disk and close it; a mounted bucket uploads it here."""
        if not self._stream.closed:
            with self._stream:
                self._stream.flush()
                os.fsync(self._stream.fileno())
        super().close()

    def entry(self) -> FileEntry:
        """Return size and digest of what was written."""
        return FileEntry(bytes=self._size, sha256=self._hash.hexdigest())


class ArtifactWriter:
    """An artifact while it is written: put files under `path`, and entries for the manifest into `counts` and `details`.

    A file that is written with `open`, `write` or `copy`, or with `write_bytes` and the like, is not read again for its digest.
    """

    being_written: ClassVar[list[ArtifactWriter]] = []

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: dict[str, int] = {}
        self.details: dict[str, Any] = {}
        self.known: dict[str, FileEntry] = {}

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[HashingFile]:
        """Open a new file, to be written from start to end."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with HashingFile(file) as stream:
            yield stream
        self.known[name] = stream.entry()

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""
        with self.open(name) as stream:
            stream.write(content)

    def copy(self, source: Path, name: str = "") -> None:
        """Copy a file, by default under its own name, or a directory with all its files."""
        name = name or source.name
        if source.is_dir():
            for file in sorted(source.rglob("*")):
                if file.is_file():
                    self.copy(file, f"{name}/{file.relative_to(source).as_posix()}")
            return
        with source.open("rb") as content, self.open(name) as stream:
            while block := content.read(COPY_BYTES):
                stream.write(block)

    def take(self, source: Path) -> None:
        """Move a file here: by a rename on the same disk, else by a copy."""
        try:
            source.rename(self.path / source.name)
        except OSError as error:
            if error.errno != errno.EXDEV:  # another disk, or another mount of the same disk
                raise
            self.copy(source)
            source.unlink()


@contextlib.contextmanager
def new_artifact(
    path: Path, kind: str, *, config: BaseModel, inputs: Mapping[str, Path] | None = None
) -> Iterator[ArtifactWriter]:
    """Write the artifact `path`: yield a writer; on success add the manifest, on failure remove the artifact.

    What was at `path` is removed first. The manifest records the digests of `inputs`, the artifacts that this one was made
    from. Raises ArtifactError when `path` cannot be written.
    """
    inputs = inputs or {}
    digests = {name: read_manifest(source, verify=False).digest for name, source in inputs.items()}
    with new_directory(path) as folder:
        writer = ArtifactWriter(folder)
        ArtifactWriter.being_written.append(writer)
        try:
            yield writer
        finally:
            ArtifactWriter.being_written.remove(writer)
        files = file_entries(folder, writer.known)
        _sync_files(folder, files, synced=writer.known)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            kind=kind,
            digest=digest_of([SCHEMA_VERSION, kind, {name: entry.sha256 for name, entry in files.items()}]),
            created_at=now(),
            code_digest=code_digest(type(config).__module__.split(".")[1]),
            config=config.model_dump(mode="json"),
            inputs=digests,
            counts=writer.counts,
            details=writer.details,
            files=files,
        )
        write_text(folder / MANIFEST, manifest.model_dump_json(indent=1))
        _sync(folder)


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield the directory `path`, empty: what was there is removed. If the block fails, the directory is removed too.

    Raises ArtifactError when it cannot be written.
    """
    path = Path(path)
    remove_artifact(path)
    with writing(str(path)):
        path.mkdir(parents=True)
        try:
            yield path
        except BaseException:
            with contextlib.suppress(ArtifactError):
                remove_artifact(path)
            raise


def remove_artifact(path: Path) -> None:
    """Remove an artifact, or whatever is at `path`: the manifest first, so that what is left of it does not exist.

    Raises ArtifactError.
    """
    try:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            (path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path)
    except OSError as error:
        raise ArtifactError(f"Cannot remove {path}: {first_line(error)}.", "Make its folder writable.") from error


def read_manifest(path: Path, kind: str | None = None, *, verify: bool = True) -> Manifest:
    """Return the manifest of the artifact at `path`; with `verify`, check every file against its digest.

    Raises ArtifactError when the manifest is missing or cannot be read, when the artifact is not of `kind`, or when a file is
    missing or does not match its digest.
    """
    path = Path(path)
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise ArtifactError(
            f"{path} has no {MANIFEST}: it is not a finished artifact.", "Run the step that writes it."
        ) from None
    except (ValidationError, OSError) as error:
        raise ArtifactError(
            f"{path / MANIFEST} cannot be read: {first_line(error)}.", f"Remove {path} and run again."
        ) from None
    if manifest.schema_version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema version {manifest.schema_version}, this program reads {SCHEMA_VERSION}.",
            "Create it again with this version.",
        )
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"{path} is a {manifest.kind}, a {kind} is needed.", f"Name the folder of a {kind}.")
    for name, entry in manifest.files.items() if verify else ():
        file = path / name
        if not file.is_file():
            raise ArtifactError(f"{path} is damaged: {name} is missing.", f"Remove {path} and run again.")
        if file.stat().st_size != entry.bytes or file_sha256(file) != entry.sha256:
            raise digest_mismatch(path, name)
    return manifest


def digest_mismatch(path: Path, name: str) -> ArtifactError:
    """Return the error for a file that is not as the manifest says."""
    return ArtifactError(f"{path} is damaged: {name} does not match its digest.", f"Remove {path} and run again.")


def file_entries(folder: Path, known: Mapping[str, FileEntry] | None = None) -> dict[str, FileEntry]:
    """Return size and digest of every file under `folder` except the manifest, by relative POSIX path, sorted.

    The entries of `known` files are not computed again.
    """
    names = sorted(
        (Path(parent) / name).relative_to(folder).as_posix()
        for parent, _, files in os.walk(folder)
        for name in files
        if name != MANIFEST
    )
    entries = dict(known or {})
    for name in names:
        if name not in entries:
            entries[name] = FileEntry(bytes=(folder / name).stat().st_size, sha256=file_sha256(folder / name))
    return {name: entries[name] for name in names}


def file_sha256(file: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed writers left in `folder`. The caller must keep all other writers away."""
    for leftover in list(folder.glob(".*.????????.tmp")):
        shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def write_json(file: Path, value: Any) -> None:
    """Write `value` as indented JSON atomically. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_bytes(file, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return `value` as indented JSON. Raises ValueError for NaN and infinity, which JSON does not have."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def write_text(file: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically. Raises ArtifactError."""
    write_bytes(file, text.encode())


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file as a whole: readers see the old content or the new, never a partial file. Raises ArtifactError.

    A file of an artifact that is being written is written in place, since the artifact does not exist before its manifest.
    """
    file = Path(file)
    for writer in ArtifactWriter.being_written:
        if file.is_relative_to(writer.path) and file.name != MANIFEST:
            with writing(str(file)):
                writer.write(file.relative_to(writer.path).as_posix(), content)
            return
    Folder(file.parent).write(file.name, [content], sync=True)


def _sync_files(folder: Path, names: Collection[str], synced: Container[str]) -> None:
    """Sync files of a directory and their folders to the disk, so that they survive a power failure."""
    for name in names:
        if name not in synced:
            _sync(folder / name)
    for path in {folder, *(parent for name in names for parent in (folder / name).parents if parent.is_relative_to(folder))}:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems do not support syncing a directory, nor need it
            raise
    finally:
        os.close(descriptor)


def digest_of(value: Any) -> str:
    """Return the hex SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@cache
def code_digest(component: str) -> str:
    """Return a digest of a component's source code, of the shared rooms' code, and of the versions of the main libraries.

    It is part of the key of each step, because KFP's own cache key does not cover imported code. A component that calls code
    of another also depends on that (CALLS).
    """
    root = Path(__file__).parents[1]
    files = []
    for folder in (*SHARED_ROOMS, component, *CALLS.get(component, ())):
        files += sorted(file for file in (root / folder).rglob("*") if file.suffix in {".py", ".j2", ".css"})
    sources = {file.relative_to(root).as_posix(): file_sha256(file) for file in files}
    return digest_of([sources, {name: _version(name) for name in PACKAGES_IN_CODE_DIGEST}])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # images hold only what their steps need; the TPU's has tensorflow-tpu
        return _version(f"{name}-tpu") if name == "tensorflow" else ""


def now() -> str:
    """Return the current time in UTC as ISO 8601 with milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
