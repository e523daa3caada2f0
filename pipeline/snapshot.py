"""What a run on a platform finds when it begins: the keys of its steps, from the present content of the source."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from components.common.artifacts import digest_of, write_bytes, write_text
from components.common.journal import listing_file, read_entry
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
        write_bytes(listing_file(config.work_dir, key), source.listing.read_bytes())
    return step_keys(config, source.digest, History(config.history).state(dataset))


def save_run(run: RunDescription, job_id: str) -> None:
    """Write config and keys of a run for its report, under the platform's id of the run, which every kind of run has."""
    write_text(_file(run.work_dir, job_id), run.model_dump_json(indent=1))


def load_run(work_dir: str, job_id: str) -> RunDescription | None:
    """Return what save_run wrote, None if there is nothing or it cannot be read."""
    try:
        return RunDescription.model_validate_json(_file(work_dir, job_id).read_bytes())
    except (OSError, ValidationError):
        return None


def _file(work_dir: str, job_id: str) -> Path:
    return Path(work_dir) / "journal" / f"run-{digest_of(job_id)[:24]}.json"


def _known_dataset(work_dir: Path, ingest_key: str) -> str:
    """Return the digest of the dataset that ingest made from this source before, "" if it did not."""
    try:
        entry = read_entry(work_dir, "ingest", ingest_key)
    except (OSError, ValidationError):  # the report names a damaged entry; here the dataset is just unknown
        return ""
    return entry.artifact.digest if entry and entry.artifact else ""
