"""The keys of the steps of a run that begins now, from the present content of the source."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.artifacts import digest_of
from components.common.errors import ArtifactError
from components.common.journal import listing_name, read_entry
from components.common.store import Location, store_at
from components.ingest.sources.fingerprint import source_fingerprint
from components.validate.drift.history import History
from pipeline.config import RunConfig
from pipeline.keys import step_keys


class SourceSnapshot(BaseModel):
    """A digest of the source's content when a run began, and the key of each step."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    digest: str
    keys: dict[str, str]


class ListedSource(NamedTuple):
    """The digest of a source, and a temporary file with its listing, which only a folder has."""

    digest: str
    listing: Path


@contextlib.contextmanager
def list_source(config: RunConfig) -> Iterator[ListedSource]:
    """List the source, once for a run. Raises ConfigError for a source that does not exist."""
    with tempfile.TemporaryDirectory(prefix="listing-") as folder:
        listing = Path(folder) / "listing.gz"
        yield ListedSource(source_fingerprint(config.ingest, listing), listing)


def take_snapshot(config: RunConfig, source: ListedSource) -> SourceSnapshot:
    """Return the snapshot of a source that was just listed, and of its history; save the listing if ingest will need it."""
    key = step_keys(config, source.digest)["ingest"]
    dataset = _known_dataset(config.work_dir, key)
    if not dataset and source.listing.is_file():
        store_at(config.work_dir).write(listing_name(key), [source.listing.read_bytes()])
    return SourceSnapshot(digest=source.digest, keys=step_keys(config, source.digest, History(config.history).state(dataset)))


def save_snapshot(snapshot: SourceSnapshot, work_dir: Location, job_id: str) -> None:
    """Write the snapshot of a run for its report, under the platform's id of the run, which every kind of run has."""
    store_at(work_dir).write(_name(job_id), [snapshot.model_dump_json(indent=1).encode()], sync=True)


def load_snapshot(work_dir: Location, job_id: str) -> SourceSnapshot | None:
    """Return the saved snapshot of a run, None if there is none or it cannot be read."""
    try:
        return SourceSnapshot.model_validate_json(store_at(work_dir).read(_name(job_id)))
    except (OSError, ArtifactError, ValidationError):
        return None


def _name(job_id: str) -> str:
    return f"journal/snapshot-{digest_of(job_id)[:24]}.json"


def _known_dataset(work_dir: Location, ingest_key: str) -> str:
    """Return the digest of the dataset that ingest made from this source before, "" if it did not."""
    try:
        entry = read_entry(work_dir, "ingest", ingest_key)
    except (ArtifactError, ValidationError):  # the report names a damaged entry; here the dataset is just unknown
        return ""
    return entry.artifact.digest if entry and entry.artifact else ""
