"""What a run on a platform finds when it begins: the keys of its steps, from the present content of the source."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from components.common.artifacts import digest_of
from components.common.errors import ArtifactError
from components.common.journal import listing_name, read_entry
from components.common.store import Location, store_at
from components.ingest.sources.fingerprint import source_fingerprint
from components.report.description import RunDescription
from components.validate.drift.history import History
from pipeline.config import RunConfig
from pipeline.keys import step_keys


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


def take_snapshot(config: RunConfig, source: ListedSource) -> dict[str, str]:
    """Return the keys of the steps for a source that was just listed and its history; save the listing if ingest needs it."""
    key = step_keys(config, source.digest)["ingest"]
    dataset = _known_dataset(config.work_dir, key)
    if not dataset and source.listing.is_file():
        store_at(config.work_dir).write(listing_name(key), [source.listing.read_bytes()])
    return step_keys(config, source.digest, History(config.history).state(dataset))


def save_run(run: RunDescription, job_id: str) -> None:
    """Write config and keys of a run for its report, under the platform's id of the run, which every kind of run has."""
    store_at(run.work_dir).write(_name(job_id), [run.model_dump_json(indent=1).encode()], sync=True)


def load_run(work_dir: Location, job_id: str) -> RunDescription | None:
    """Return what save_run wrote, None if there is nothing or it cannot be read."""
    try:
        return RunDescription.model_validate_json(store_at(work_dir).read(_name(job_id)))
    except (OSError, ArtifactError, ValidationError):
        return None


def _name(job_id: str) -> str:
    return f"journal/run-{digest_of(job_id)[:24]}.json"


def _known_dataset(work_dir: Location, ingest_key: str) -> str:
    """Return the digest of the dataset that ingest made from this source before, "" if it did not."""
    try:
        entry = read_entry(work_dir, "ingest", ingest_key)
    except (ArtifactError, ValidationError):  # the report names a damaged entry; here the dataset is just unknown
        return ""
    return entry.artifact.digest if entry and entry.artifact else ""
