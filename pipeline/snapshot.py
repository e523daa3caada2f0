"""The keys of the steps of a run that begins now, from the present content of the source."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.artifacts import digest_of, write_bytes, write_text
from components.common.journal import listing_file, read_entry
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
        write_bytes(listing_file(config.work_dir, key), source.listing.read_bytes())
    return SourceSnapshot(digest=source.digest, keys=step_keys(config, source.digest, History(config.history).state(dataset)))


def save_snapshot(snapshot: SourceSnapshot, work_dir: Path, job_id: str) -> None:
    """Write the snapshot of a run for its report, under the platform's id of the run, which every kind of run has."""
    write_text(_file(work_dir, job_id), snapshot.model_dump_json(indent=1))


def load_snapshot(work_dir: Path, job_id: str) -> SourceSnapshot | None:
    """Return the saved snapshot of a run, None if there is none or it cannot be read."""
    try:
        return SourceSnapshot.model_validate_json(_file(work_dir, job_id).read_bytes())
    except (OSError, ValidationError):
        return None


def _file(work_dir: Path, job_id: str) -> Path:
    return work_dir / "journal" / f"snapshot-{digest_of(job_id)[:24]}.json"


def _known_dataset(work_dir: Path, ingest_key: str) -> str:
    """Return the digest of the dataset that ingest made from this source before, "" if it did not."""
    try:
        entry = read_entry(work_dir, "ingest", ingest_key)
    except (OSError, ValidationError):  # the report names a damaged entry; here the dataset is just unknown
        return ""
    return entry.artifact.digest if entry and entry.artifact else ""
