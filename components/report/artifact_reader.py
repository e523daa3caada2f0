"""Reads artifacts for the report: what cannot be read becomes a sentence, never an exception."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from components.common.artifacts import Manifest, read_manifest, write_bytes
from components.common.errors import ArtifactError, first_line
from components.common.journal import SNAPSHOT, ArtifactRef
from components.common.store import Location, store_at
from components.common.stored_artifacts import newest_artifact
from components.dataset.records import read_first
from components.report.outcomes import StepOutcome
from components.report.plots.figures import Figure, figure

T = TypeVar("T")
Default = TypeVar("Default")

KINDS = {
    SNAPSHOT: "",
    "ingest": "dataset",
    "validate": "validation",
    "tpu_check": "tpu_check",
    "train": "model",
    "evaluate": "evaluation",
    "gate": "verdict",
    "push": "push",
}
# What reading a missing or damaged artifact can raise; the last three come from JSON of an unexpected shape.
READ_ERRORS = (OSError, ArtifactError, DecodeError, ValueError, LookupError, TypeError, AttributeError)


class ArtifactReader:
    """An artifact of a run; `manifest` is None if there is none to read, and `notes` say what could not be read and why."""

    def __init__(self, kind: str, artifact: ArtifactRef | None, summary: Mapping[str, Any] | None = None) -> None:
        self.summary = summary or {}
        self.notes: list[str] = []
        self.path = Path(artifact.path) if artifact else Path()
        self.manifest: Manifest | None = None
        if artifact is None:
            return
        try:
            self.manifest = read_manifest(self.path, kind, verify=False)
        except READ_ERRORS as error:
            self.note(f"The {kind}", error)
            return
        if artifact.digest and self.manifest.digest != artifact.digest:
            self.notes.append(
                f"The {kind} in {self.path} is not the one that this run wrote: its digest is "
                f"{self.manifest.digest[:12]} instead of {artifact.digest[:12]}."
            )

    def note(self, what: str, error: BaseException) -> None:
        """Add the sentence that something cannot be shown."""
        self.notes.append(f"{what} cannot be shown: {first_line(error)}.")

    def attempt(self, what: str, read: Callable[[], T], default: Default, *, recorded: bool = False) -> T | Default:
        """Return what `read` returns; `default` where there is no artifact or, with a note about `what`, where `read` fails.

        With `recorded`, `read` needs only the summary, which is there without the artifact too.
        """
        if self.manifest is None and not recorded:
            return default
        try:
            return read()
        except READ_ERRORS as error:
            self.note(what, error)
            return default

    def names(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Return the names of the artifact's files with this prefix and suffix, sorted."""
        files = self.manifest.files if self.manifest else {}
        return sorted(name for name in files if name.startswith(prefix) and name.endswith(suffix))

    def content(self, name: str) -> bytes:
        """Return the content of a file, checked against its digest. Raises ArtifactError or OSError."""
        if self.manifest is None or name not in self.manifest.files:
            raise ArtifactError(f"there is no {name} in {self.path}.")
        content = (self.path / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.manifest.files[name].sha256:
            raise ArtifactError(f"{self.path / name} is damaged: it does not match its digest.")
        return content

    def json(self, name: str) -> Any:
        """Return the value of a JSON file. Raises ArtifactError, OSError or ValueError."""
        return json.loads(self.content(name))

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return the objects of a JSON Lines file. Raises ArtifactError, OSError or ValueError."""
        return [json.loads(line) for line in self.content(name).decode().splitlines()]

    def figure(self, name: str, alt: str, caption: str) -> Figure | None:
        """Return an image file as a figure, or None and a note."""
        return self.attempt(f"The image {name}", lambda: figure(self.content(name), alt, caption), None)

    def images(self, split: str, limit: int) -> npt.NDArray[np.uint8]:
        """Return the first `limit` images of a split, [N, H, W, C], without reading the other shards."""
        return read_first(self.path, split, limit)


def open_outcome(outcome: StepOutcome) -> ArtifactReader:
    """Return the artifact of a step; it has no manifest and no note if the step wrote none."""
    record = outcome.record
    return ArtifactReader(KINDS[outcome.step], record.artifact if record else None, record.summary if record else None)


def open_finished(kind: str, path: Path, summary: Mapping[str, Any] | None = None) -> ArtifactReader:
    """Return the artifact of a step that has just ended, with its summary."""
    return ArtifactReader(kind, ArtifactRef(path=str(path), digest=""), summary)  # its digest is not recorded yet


class CheckpointReader(ArtifactReader):
    """The last checkpoint of a training that wrote no model, with the sample grids in the folder above it."""

    def names(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Return the names of the files in the checkpoint and in the folder above with this prefix and suffix, sorted."""
        above = self.path.parent.glob(f"{prefix}*{suffix}")
        return sorted({*super().names(prefix, suffix), *(file.relative_to(self.path.parent).as_posix() for file in above)})

    def content(self, name: str) -> bytes:
        """Return the content of a checkpoint's file, checked against its digest, or of a file in the folder above."""
        inside = self.manifest is not None and name in self.manifest.files
        return super().content(name) if inside else (self.path.parent / name).read_bytes()


@contextlib.contextmanager
def open_unfinished_training(work_dir: Location, train_config: Mapping[str, Any]) -> Iterator[ArtifactReader]:
    """Yield the newest checkpoint of a training with this configuration; without a manifest if there is none.

    A training's folder holds `round-N/` (checkpoints, each with metrics.jsonl) and `samples/`.
    """
    reader, newest, content = ArtifactReader("checkpoint", None), "", dict[str, bytes]()
    try:
        store = store_at(work_dir, "checkpoints")
        newest = newest_artifact(store, "", lambda manifest: manifest.config == train_config)
        content = {name: store.read(name) for name in (store.files() if newest else ()) if _is_shown(name, newest)}
    except (OSError, ArtifactError) as error:
        newest = ""
        reader.note("The checkpoints", error)
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        for name, data in content.items():
            write_bytes(Path(folder) / name, data)
        reference = ArtifactRef(path=f"{folder}/{newest}", digest="")  # the digest was not recorded
        yield CheckpointReader("checkpoint", reference) if newest else reader


def _is_shown(name: str, checkpoint: str) -> bool:
    """Return whether the report may show a file of the checkpoints: numbers of this one, and sample grids of its training."""
    samples = f"{PurePosixPath(checkpoint).parent}/samples/"
    return name.startswith((samples, f"{checkpoint}/")) and not name.endswith(".npz")
