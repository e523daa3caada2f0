"""An artifact, opened for the report: what cannot be read becomes a sentence, never an exception."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from components.common.artifacts import Manifest, read_manifest
from components.common.errors import ArtifactError, first_line
from components.common.journal import ArtifactRef
from components.dataset.records import decode_example, read_tfrecord
from components.report.outcomes import Outcome

T = TypeVar("T")

# What a missing or damaged artifact can raise while it is read; the last three come from JSON of an unexpected shape.
READ_ERRORS = (OSError, ArtifactError, DecodeError, ValueError, LookupError, TypeError, AttributeError)


class Opened:
    """An artifact, or what is left of it: `manifest` is None where there is none, and `notes` says why."""

    def __init__(self, name: str, kind: str, artifact: ArtifactRef | None, summary: Mapping[str, Any] | None = None) -> None:
        self.summary = summary or {}
        self.notes: list[str] = []
        self.path = Path(artifact.path) if artifact else Path()
        self.manifest: Manifest | None = None
        if artifact is not None:
            self.manifest = self.attempt(f"The {name}", lambda: read_manifest(self.path, kind, verify=False))
            if self.manifest is not None and self.manifest.digest != artifact.digest:
                self.notes.append(
                    f"The {name} at {self.path} is not the one that was written in this run: its digest is "
                    f"{self.manifest.digest[:12]}, {artifact.digest[:12]} was recorded."
                )

    def attempt(self, what: str, read: Callable[[], T]) -> T | None:
        """Return what `read` returns, or None and a sentence about `what`."""
        try:
            return read()
        except READ_ERRORS as error:
            self.notes.append(f"{what} cannot be shown: {first_line(error)}.")
            return None

    def names(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Return the names of the artifact's files that begin and end so, sorted."""
        files = self.manifest.files if self.manifest else {}
        return sorted(name for name in files if name.startswith(prefix) and name.endswith(suffix))

    def content(self, name: str) -> bytes:
        """Return one file, checked against its digest. Raises ArtifactError or OSError."""
        if self.manifest is None or name not in self.manifest.files:
            raise ArtifactError(f"there is no {name} in {self.path}.")
        content = (self.path / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.manifest.files[name].sha256:
            raise ArtifactError(f"{self.path / name} is damaged, it does not match its digest.")
        return content

    def lines(self, name: str, limit: int | None = None) -> list[dict[str, Any]]:
        """Return the objects of a JSON Lines file, at most `limit`. Raises ArtifactError, OSError or ValueError."""
        return [json.loads(line) for line in itertools.islice(self.content(name).decode().splitlines(), limit)]

    def images(self, split: str, limit: int) -> npt.NDArray[np.uint8]:
        """Return the first `limit` images of a split, [N, H, W, C]; the shards that are not needed stay unread."""
        if self.manifest is None:
            raise ArtifactError(f"there is no dataset at {self.path}.")
        size, channels = int(self.manifest.details["image_size"]), int(self.manifest.details["channels"])
        shards = (read_tfrecord(self.path / name) for name in self.names(f"{split}-", ".tfrecord"))
        first = itertools.islice(itertools.chain.from_iterable(shards), limit)
        return np.stack([decode_example(serialized, size, channels).image for serialized in first])


def open_outcome(outcome: Outcome, kind: str) -> Opened:
    """Return the artifact of a step; without a manifest, and without a note, where the step made none."""
    record = outcome.record
    return Opened(kind, kind, record.artifact if record else None, record.summary if record else None)


class UnfinishedTraining(Opened):
    """The last checkpoint of a training that made no model, with the sample grids that lie beside it."""

    def names(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Return the names of the files beside the checkpoint that begin and end so, sorted."""
        folder = self.path.parent
        return sorted(file.relative_to(folder).as_posix() for file in folder.glob(f"{prefix}*{suffix}"))

    def content(self, name: str) -> bytes:
        """Return a file of the checkpoint, checked against its digest, or one beside it, which has none."""
        inside = self.manifest is not None and name in self.manifest.files
        return super().content(name) if inside else (self.path.parent / name).read_bytes()


def open_unfinished_training(work_dir: Path, train_config: Mapping[str, Any]) -> Opened:
    """Return the newest checkpoint of a training with this configuration: what is left of one that did not finish.

    A training's folder holds `round-N/` (checkpoints, each with metrics.jsonl) and `samples/` beside them.
    """
    found = []
    for folder in (work_dir / "checkpoints").glob("*/round-*"):
        checkpoint = UnfinishedTraining("checkpoint", "checkpoint", ArtifactRef(path=str(folder), digest=""))
        if checkpoint.manifest is not None and checkpoint.manifest.config == train_config:
            checkpoint.notes.clear()  # nobody recorded its digest
            found.append((checkpoint.manifest.created_at, checkpoint))
    return max(found, key=lambda pair: pair[0])[1] if found else Opened("checkpoint", "checkpoint", None)
