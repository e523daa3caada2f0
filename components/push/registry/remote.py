"""A registry in an object store, such as gs://bucket/registry: changed in a local copy, then uploaded.

    versions/v0001/{claim.json, …, manifest.json}   claim.json is created first and reserves the number; manifest.json is last
    champion/000017.json                            the 17th pointer; the highest is in service
    decisions/DIGEST.json  moves/TIME.json          as in a folder

An object store has neither renames nor locks, but an object appears whole, and can be created on the condition that none of
its name exists. So the pointer is never replaced: a change creates the next one, and of all processes that started from the
same state only one can create it. The others change nothing that is in service and get a ConflictError.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from components.common.addresses import find_filesystem, remote_errors
from components.common.artifacts import MANIFEST, now, read_manifest, write_bytes
from components.common.errors import ArtifactError, ConfigError, PipelineError, first_line
from components.push.candidate import SCORES_FILE
from components.push.config import check_registry
from components.push.registry.registry import (
    CHAMPION,
    CLAIM,
    DECISIONS,
    MOVES,
    VERSION_NAME,
    VERSIONS,
    ConflictError,
    complete_versions,
    read_pointer,
)

POINTERS = "champion"


@contextlib.contextmanager
def local_copy(url: str, *, versions: Iterable[str] = (), model_digest: str = "", change: bool = False) -> Iterator[Path]:
    """Yield a folder that holds the registry at `url`; with `change`, upload what the block changed in it.

    See open_registry for the arguments and errors.
    """
    try:
        check_registry(url)
    except ValueError as error:
        raise ConfigError(f"{url} cannot hold a registry: {error}.") from None
    url = url.rstrip("/")
    with tempfile.TemporaryDirectory(prefix="registry-") as temporary:
        folder = Path(temporary) / "copy"
        try:
            copy = _Copy(_Store(url), folder)
            copy.download(versions, model_digest)
            yield folder
            if change:
                copy.upload()
        except PipelineError as error:  # errors about the copy name the URL
            error.problem, error.cure = (text.replace(str(folder), url) for text in (error.problem, error.cure))
            raise


class _Store:
    """The objects below a URL, by their names relative to it. Raises ArtifactError when an operation fails."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, self._root = find_filesystem(url)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the size in bytes of each object in a folder and below, by name."""
        with self._errors("list", folder):
            try:
                found = self._files.find(f"{self._root}/{folder}".rstrip("/"), detail=True)
            except FileNotFoundError:
                found = {}
        return {self._name(path): info["size"] for path, info in found.items()}

    def read(self, names: list[str]) -> dict[str, bytes]:
        if not names:
            return {}
        with self._errors("read", names[0]):
            found = self._files.cat([f"{self._root}/{name}" for name in names], on_error="raise")
        return {self._name(path): content for path, content in found.items()}

    def write(self, name: str, content: bytes) -> None:
        with self._errors("write", name):
            self._files.pipe_file(f"{self._root}/{name}", content)

    def create(self, name: str, content: bytes) -> bool:
        """Create an object unless one of this name exists; return whether the object is ours."""
        with self._errors("write", name):
            try:
                self._files.pipe_file(f"{self._root}/{name}", content, mode="create")
            except FileExistsError:
                # The client repeats a request whose answer was lost, and then finds the object that the first one created.
                return self.read([name])[name] == content
        return True

    def remove(self, name: str) -> None:
        with self._errors("remove", name), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    def _name(self, path: str) -> str:
        return path.removeprefix(self._root).removeprefix("/")

    @contextlib.contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except remote_errors(ValueError) as error:
            raise ArtifactError(
                f"Cannot {verb} {self.url}/{name}: {first_line(error)}.",
                "Reading a registry requires permission to list and read objects; a push also to create and delete them.",
            ) from error


class _Copy:
    """The copy of a registry in `folder`, and the state of the store that it was made from."""

    def __init__(self, store: _Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._names = set(store.sizes())
        for name in self._names:
            if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                raise ArtifactError(f"{store.url} holds an object named {name!r}.", "Remove it: no registry has such a name.")
        self._started = self._versions_with("")
        self._complete = self._versions_with(f"{MANIFEST}$")
        self._pointer_name = max((name for name in self._names if re.fullmatch(rf"{POINTERS}/\d{{6}}\.json", name)), default="")
        self._pointer = b""

    def _versions_with(self, file: str) -> set[str]:
        return {name.split("/")[1] for name in self._names if re.match(rf"{VERSIONS}/{VERSION_NAME}/{file}", name)}

    def download(self, versions: Iterable[str], model_digest: str) -> None:
        self._folder.mkdir()
        if self._pointer_name:
            self._pointer = self._store.read([self._pointer_name])[self._pointer_name]
            write_bytes(self._folder / CHAMPION, self._pointer)
        for version in self._started:
            (self._folder / VERSIONS / version).mkdir(parents=True)
        wanted = {f"{VERSIONS}/{version}/{name}" for version in self._complete for name in (MANIFEST, SCORES_FILE)}
        wanted |= {f"{VERSIONS}/{version}/{CLAIM}" for version in self._started - self._complete}
        self._fetch(wanted | {f"{DECISIONS}/{model_digest}.json"})
        for version in self._resolve(versions) | self._versions_of_model(model_digest):
            self._fetch({name for name in self._names if name.startswith(f"{VERSIONS}/{version}/")})

    def _fetch(self, names: set[str]) -> None:
        for name, content in self._store.read(sorted(name for name in names & self._names if name[-1] != "/")).items():
            write_bytes(self._folder / name, content)

    def _resolve(self, versions: Iterable[str]) -> set[str]:
        """Return the complete ones of these versions, "champion" and "previous" replaced by what the pointer names."""
        try:
            pointer = read_pointer(self._folder)
        except ArtifactError:  # raised again by the caller that reads the pointer; a rollback to a named version does not
            pointer = None
        named = {"champion": pointer.version, "previous": pointer.previous} if pointer else {}
        return {named.get(version, version) for version in versions} & self._complete

    def _versions_of_model(self, model_digest: str) -> set[str]:
        """Return the versions of a model: if a push of it was interrupted, the next one puts its version into service."""
        folders = complete_versions(self._folder) if model_digest else []
        manifests = {folder.name: read_manifest(folder, "version", verify=False) for folder in folders}
        return {version for version, manifest in manifests.items() if manifest.inputs.get("model") == model_digest}

    def upload(self) -> None:
        """Write versions, then the pointer, then the records: wherever it stops, the version in service is complete."""
        for folder in complete_versions(self._folder):
            if folder.name not in self._complete:
                self._upload_version(folder)
        file = self._folder / CHAMPION
        pointer = file.read_bytes() if file.exists() else b""
        removed = {version for version in self._started if not (self._folder / VERSIONS / version).exists()}
        if removed and not pointer:
            raise ArtifactError(
                f"Nothing is in service in {self._store.url}.", "Choose a version first: registry rollback VERSION."
            )
        if pointer != self._pointer or removed:
            # A removal creates a pointer too, with the same content: nobody can have pointed to a removed version meanwhile.
            number = int(PurePosixPath(self._pointer_name or "0").stem) + 1
            if not self._store.create(f"{POINTERS}/{number:06d}.json", pointer):
                raise self._conflict("moved the champion pointer")
        for version in sorted(removed):
            prefix = f"{VERSIONS}/{version}/"
            manifest = f"{prefix}{MANIFEST}"  # first: without it the version does not count
            for name in [manifest, *sorted(name for name in self._names if name.startswith(prefix) and name != manifest)]:
                self._store.remove(name)
        for kind in (MOVES, DECISIONS):
            for file in sorted((self._folder / kind).glob("*.json")):
                name, content = f"{kind}/{file.name}", file.read_bytes()
                if name not in self._names or self._store.read([name])[name] != content:
                    self._store.write(name, content)

    def _upload_version(self, folder: Path) -> None:
        prefix = f"{VERSIONS}/{folder.name}"
        manifest = read_manifest(folder, "version")
        claim = json.dumps({"at": now(), "by": uuid.uuid4().hex}).encode()
        if not self._store.create(f"{prefix}/{CLAIM}", claim):
            raise self._conflict(f"took the version number {folder.name}")
        for name in manifest.files:
            self._store.write(f"{prefix}/{name}", (folder / name).read_bytes())
        sizes = self._store.sizes(prefix)
        for name, entry in manifest.files.items():
            if (size := sizes.get(f"{prefix}/{name}")) != entry.bytes:
                raise ArtifactError(
                    f"{self._store.url}/{prefix}/{name} has {size} bytes after its upload instead of {entry.bytes}.",
                    "Run push again.",
                )
        self._store.write(f"{prefix}/{MANIFEST}", (folder / MANIFEST).read_bytes())

    def _conflict(self, what: str) -> ConflictError:
        return ConflictError(f"Another process {what} in {self._store.url} at the same time; its change stands.", "Run again.")
