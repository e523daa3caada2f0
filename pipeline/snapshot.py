"""The keys of the steps of a run that begins now, from the present content of the source."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.artifacts import digest_of, write_text
from components.common.journal import read_entry
from components.ingest.sources.fingerprint import source_fingerprint
from components.validate.drift.history import History
from pipeline.config import RunConfig
from pipeline.keys import step_keys


class SourceSnapshot(BaseModel):
    """A digest of the source's content when a run began, and the key of each step."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    digest: str
    keys: dict[str, str]


def take_snapshot(config: RunConfig, digest: str = "") -> SourceSnapshot:
    """Return the present snapshot of the source and its history; `digest` is that of the source, if known.

    Raises ConfigError for a source that does not exist.
    """
    digest = digest or source_fingerprint(config.ingest)
    dataset = _known_dataset(config.work_dir, step_keys(config, digest)["ingest"])
    return SourceSnapshot(digest=digest, keys=step_keys(config, digest, History(config.history).state(dataset)))


def save_snapshot(snapshot: SourceSnapshot, work_dir: Path, job_name: str) -> None:
    """Write the snapshot of a run for its report."""
    write_text(_file(work_dir, job_name), snapshot.model_dump_json(indent=1))


def load_snapshot(work_dir: Path, job_name: str) -> SourceSnapshot | None:
    """Return the saved snapshot of a run, None if there is none or it cannot be read."""
    try:
        return SourceSnapshot.model_validate_json(_file(work_dir, job_name).read_bytes())
    except (OSError, ValidationError):
        return None


def _file(work_dir: Path, job_name: str) -> Path:
    return work_dir / "journal" / f"snapshot-{digest_of(job_name)[:24]}.json"


def _known_dataset(work_dir: Path, ingest_key: str) -> str:
    """Return the digest of the dataset that ingest made from this source before, "" if it did not."""
    try:
        entry = read_entry(work_dir, "ingest", ingest_key)
    except (OSError, ValidationError):  # the report names a damaged entry; here the dataset is just unknown
        return ""
    return entry.artifact.digest if entry and entry.artifact else ""
