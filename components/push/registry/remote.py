"""A registry behind an address such as gs://bucket/registry: worked on in a copy, and written back by writes that can fail.

    versions/v0001/{claim.json, …, manifest.json}   claim.json first: the number is taken; manifest.json last: it is whole
    champion/000017.json                            the 17th pointer; the highest is in service
    decisions/DIGEST.json  moves/TIME.json          as in a folder

An object store has neither renames nor locks. What it has is enough: an object appears whole, and can be made on the
condition that there is none of its name. So the pointer is not replaced: the next one is made, and of all who worked on the
copy of one state only one can make it. The others change nothing that is in service and are told (OvertakenError).
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
from components.push.config import check_place
from components.push.registry.registry import (
    CHAMPION,
    CLAIM,
    DECISIONS,
    MOVES,
    SCORES_FILE,
    VERSION_NAME,
    VERSIONS,
    OvertakenError,
    read_pointer,
)

POINTERS = "champion"


@contextlib.contextmanager
def copied(address: str, *, whole: Iterable[str], model_digest: str = "", change: bool = False) -> Iterator[Path]:
    """Yield a folder with the registry's state; with `change`, what was done in it is written back when the block ends well.

    Every version is there with manifest and scores; with all files those named in `whole` ("champion" and "previous" are
    the ones that the pointer names) and those made from `model_digest`, whose decision is there too. Raises ArtifactError
    when the address cannot be read or written, OvertakenError when another process came first.
    """
    with tempfile.TemporaryDirectory(prefix="registry-") as temporary:
        folder = Path(temporary) / "copy"
        try:
            copy = _Copy(address, folder)
            copy.fetch(whole, model_digest)
            yield folder
            if change:
                copy.write_back()
        except PipelineError as error:  # what was found in the copy is true of the address
            error.problem, error.cure = (text.replace(str(folder), address.rstrip("/")) for text in (error.problem, error.cure))
            raise


class _Copy:
    def __init__(self, address: str, folder: Path) -> None:
        try:
            check_place(address)
        except ValueError as error:
            raise ConfigError(f"No registry can be at {address}: {error}.") from None
        self._address = address.rstrip("/")
        self._folder = folder
        self._files, self._root = find_filesystem(self._address)
        self._names: set[str] = set()
        self._begun: set[str] = set()
        self._versions: set[str] = set()
        self._pointer = b""
        self._number = 0

    def fetch(self, whole: Iterable[str], model_digest: str) -> None:
        self._names = self._list()
        self._folder.mkdir()
        pointers = [name for name in self._names if re.fullmatch(rf"{POINTERS}/\d{{6}}\.json", name)]
        if pointers:
            newest = max(pointers)
            self._number = int(PurePosixPath(newest).stem)
            self._pointer = self._get([newest])[newest]
            write_bytes(self._folder / CHAMPION, self._pointer)
        self._versions = {
            name.split("/")[1] for name in self._names if re.fullmatch(rf"{VERSIONS}/{VERSION_NAME}/{MANIFEST}", name)
        }
        self._begun = {name.split("/")[1] for name in self._names if re.match(rf"{VERSIONS}/{VERSION_NAME}/", name)}
        for version in self._begun:
            (self._folder / VERSIONS / version).mkdir(parents=True)
        wanted = {f"{VERSIONS}/{version}/{name}" for version in self._versions for name in (MANIFEST, SCORES_FILE)}
        wanted |= {f"{VERSIONS}/{version}/{CLAIM}" for version in self._begun - self._versions}
        wanted |= {f"{DECISIONS}/{model_digest}.json"}
        self._fetch(wanted)
        for version in self._meant(whole) | self._made_from(model_digest):
            self._fetch({name for name in self._names if name.startswith(f"{VERSIONS}/{version}/")})

    def _fetch(self, names: set[str]) -> None:
        for name, content in self._get(sorted(name for name in names & self._names if not name.endswith("/"))).items():
            write_bytes(self._folder / name, content)

    def write_back(self) -> None:
        """Versions, then the pointer, then the records: cut off anywhere, what is in service is whole."""
        complete = {file.parent.name for file in (self._folder / VERSIONS).glob(f"v*/{MANIFEST}")}
        for version in sorted(complete - self._versions):
            self._add(version)
        pointer = self._read(CHAMPION)
        removed = {version for version in self._begun if not (self._folder / VERSIONS / version).exists()}
        if removed and not pointer:
            raise ArtifactError(
                f"Nothing is in service in {self._address}.", "Choose a version first: registry rollback VERSION."
            )
        if pointer != self._pointer or removed:
            # Who removes makes a pointer too, the same again: nobody can have pointed to what is removed meanwhile.
            self._point(pointer)
        for version in sorted(removed):
            self._remove(version)
        for kind in (MOVES, DECISIONS):
            for file in sorted((self._folder / kind).glob("*.json")):
                name, content = f"{kind}/{file.name}", file.read_bytes()
                if name not in self._names or self._get([name])[name] != content:
                    self._put(name, content)

    def _add(self, version: str) -> None:
        folder = self._folder / VERSIONS / version
        manifest = read_manifest(folder, "version")
        claim = json.dumps({"at": now(), "by": uuid.uuid4().hex}).encode()
        if not self._create(f"{VERSIONS}/{version}/{CLAIM}", claim):
            raise self._overtaken(f"has taken the number {version}")
        for name in manifest.files:
            self._put(f"{VERSIONS}/{version}/{name}", (folder / name).read_bytes())
        with self._told("list", f"{VERSIONS}/{version}"):
            arrived = {self._relative(path): info["size"] for path, info in self._found(f"{VERSIONS}/{version}").items()}
        for name, entry in manifest.files.items():
            if (size := arrived.get(f"{VERSIONS}/{version}/{name}")) != entry.bytes:
                raise ArtifactError(
                    f"{self._address}/{VERSIONS}/{version}/{name} has {size} bytes after its upload instead of {entry.bytes}.",
                    "Run push again.",
                )
        self._put(f"{VERSIONS}/{version}/{MANIFEST}", (folder / MANIFEST).read_bytes())

    def _point(self, content: bytes) -> None:
        if not self._create(f"{POINTERS}/{self._number + 1:06d}.json", content):
            raise self._overtaken("moved the champion pointer")

    def _remove(self, version: str) -> None:
        first = f"{VERSIONS}/{version}/{MANIFEST}"  # without it no part counts
        names = [first, *sorted(name for name in self._names if name.startswith(f"{VERSIONS}/{version}/") and name != first)]
        for name in names:
            with self._told("remove", name), contextlib.suppress(FileNotFoundError):
                self._files.rm_file(f"{self._root}/{name}")

    def _overtaken(self, what: str) -> OvertakenError:
        return OvertakenError(
            f"Another process {what} in {self._address} while this one worked; what is in service is its choice.", "Run again."
        )

    def _meant(self, whole: Iterable[str]) -> set[str]:
        names = set(whole)
        if places := names & {"champion", "previous"}:
            try:
                pointer = read_pointer(self._folder)
            except ArtifactError:  # whoever needs it will find the same
                pointer = None
            stands_for = {"champion": pointer.version, "previous": pointer.previous} if pointer else {}
            names |= {stands_for[place] for place in places & stands_for.keys()}
        return names & self._versions

    def _made_from(self, model_digest: str) -> set[str]:
        """Return the versions of a model: a push of it may have been cut off, and this one will point to what it left."""
        folders = [self._folder / VERSIONS / version for version in self._versions]
        manifests = {folder.name: read_manifest(folder, "version", verify=False) for folder in folders} if model_digest else {}
        return {version for version, manifest in manifests.items() if manifest.inputs.get("model") == model_digest}

    def _list(self) -> set[str]:
        with self._told("list", ""):
            names = {self._relative(path) for path in self._found("")}
        for name in names:
            if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                raise ArtifactError(
                    f"{self._address} holds an object named {name!r}.", "Remove it: it is none of a registry's."
                )
        return names

    def _found(self, name: str) -> dict[str, dict[str, int]]:
        place = f"{self._root}/{name}".rstrip("/")
        try:
            found: dict[str, dict[str, int]] = self._files.find(place, detail=True)
        except FileNotFoundError:
            return {}
        return found

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._root).removeprefix("/")

    def _read(self, name: str) -> bytes:
        file = self._folder / name
        return file.read_bytes() if file.exists() else b""

    def _get(self, names: list[str]) -> dict[str, bytes]:
        if not names:
            return {}
        with self._told("read", names[0]):
            found = self._files.cat([f"{self._root}/{name}" for name in names], on_error="raise")
        return {self._relative(path): content for path, content in found.items()}

    def _put(self, name: str, content: bytes) -> None:
        with self._told("write", name):
            self._files.pipe_file(f"{self._root}/{name}", content)

    def _create(self, name: str, content: bytes) -> bool:
        """Make an object where there is none of its name; return whether it is ours."""
        with self._told("write", name):
            try:
                self._files.pipe_file(f"{self._root}/{name}", content, mode="create")
            except FileExistsError:
                # A request that was sent again because its answer was lost finds what the first one made.
                return self._get([name])[name] == content
        return True

    @contextlib.contextmanager
    def _told(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except remote_errors(ValueError) as error:
            raise ArtifactError(
                f"Cannot {verb} {self._address}/{name}: {first_line(error)}.",
                "Who reads a registry must list and read its objects; who pushes must create and remove them too.",
            ) from error
