"""Atomic writes: artifacts are directories with a manifest of digests; a directory or file appears complete or not at all.

An artifact is written under a temporary name beside its final path, manifest.json last, and then renamed. A step does not
accept a directory without a manifest, so a step that is killed leaves nothing that looks finished.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import glob
import hashlib
import importlib.metadata
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.errors import ArtifactError, first_line

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SHARED_ROOMS = ("common", "dataset", "generator")  # their code is part of every component's code digest
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


class FileEntry(BaseModel):
    """Size and digest of one file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """The content of manifest.json: what an artifact is, what it was made from, and the digest of each of its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")
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


class ArtifactWriter:
    """An artifact while it is written: put files under `path`, and entries for the manifest into `counts` and `details`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: dict[str, int] = {}
        self.details: dict[str, Any] = {}


@contextlib.contextmanager
def new_artifact(
    path: Path, kind: str, *, config: BaseModel, inputs: Mapping[str, Path] | None = None
) -> Iterator[ArtifactWriter]:
    """Write the artifact `path` atomically: yield a writer; on success add the manifest and rename, on failure remove it.

    The manifest records the digests of `inputs`, the artifacts that this one was made from. Raises ArtifactError when `path`
    cannot be written.
    """
    inputs = inputs or {}
    digests = {name: read_manifest(source, verify=False).digest for name, source in inputs.items()}
    with atomic_directory(path) as folder:
        writer = ArtifactWriter(folder)
        yield writer
        files = file_entries(folder)
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
    if verify:
        _verify_files(path, manifest)
    return manifest


def _verify_files(path: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise ArtifactError(f"{path} is damaged: {name} is missing.", f"Remove {path} and run again.")
        if file.stat().st_size != entry.bytes or file_sha256(file) != entry.sha256:
            raise ArtifactError(f"{path} is damaged: {name} does not match its digest.", f"Remove {path} and run again.")


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Return size and digest of every file under `folder` except the manifest, by relative POSIX path, sorted."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {
        file.relative_to(folder).as_posix(): FileEntry(bytes=file.stat().st_size, sha256=file_sha256(file)) for file in files
    }


def file_sha256(file: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`, which replaces `path` on success and is removed on failure.

    All files are synced to the disk before the rename, so a directory is complete even after a power failure. Raises
    ArtifactError when it cannot be written.
    """
    path = Path(path)
    temporary = _hidden_sibling(path, "tmp")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        _sync_tree(temporary)
        _replace_directory(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_directory(temporary: Path, path: Path) -> None:
    if path.exists():  # a rename cannot replace a directory that is not empty, so the old one is moved away first
        old = _hidden_sibling(path, "old")
        path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink()
    else:
        temporary.rename(path)


def remove_directory(path: Path) -> None:
    """Rename a directory, then remove it, so that an interrupted removal leaves no partial directory under its name."""
    old = _hidden_sibling(path, "old")
    path.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path, name: str = "*", ending: str = "tmp") -> None:
    """Remove the hidden files that killed writers of `name` left in `folder`.

    The caller must hold a lock that keeps all other writers away. `ending` selects unfinished files and directories ("tmp") or
    those that were replaced or removed ("old").
    """
    pattern = name if name == "*" else glob.escape(name)
    for leftover in list(folder.glob(f".{pattern}.????????.{ending}")):
        shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def write_json(file: Path, value: Any) -> None:
    """Write `value` as indented JSON atomically. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_text(file, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically. Raises ArtifactError."""
    write_bytes(file, text.encode())


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file atomically: readers see the old content or the new, never a partial file. Raises ArtifactError."""
    file = Path(file)
    temporary = _hidden_sibling(file, "tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _cannot_write(file, error) from error


def _hidden_sibling(path: Path, ending: str) -> Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.{ending}"


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems do not support syncing a directory, nor need it
            raise
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> ArtifactError:
    # shutil.copytree raises a list of (source, destination, reason); the first reason is enough
    why = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror or error
    return ArtifactError(
        f"Cannot write {path}: {why}.",
        "Free space or name a writable folder, for instance --set run.dir=DIR.",
    )


def digest_of(value: Any) -> str:
    """Return the hex SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@cache
def code_digest(component: str) -> str:
    """Return a digest of a component's source code, of the shared rooms' code, and of the versions of the main libraries.

    It is part of the key of each step, because KFP's own cache key does not cover imported code. A component that calls code
    of another also depends on that: `push` and `train` score with `evaluate`, and `validate` runs Beam with `ingest`'s code.
    """
    root = Path(__file__).parents[1]
    others = {"push": "evaluate", "train": "evaluate", "tpu_check": "train", "validate": "ingest"}
    folders = (component, *([others[component]] if component in others else []))
    files = []
    for folder in (*SHARED_ROOMS, *folders):
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
