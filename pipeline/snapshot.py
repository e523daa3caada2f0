"""What the sources hold now: the keys of the steps of a run that begins now."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.artifacts import digest_of, write_text
from components.common.journal import read_entry
from components.ingest.sources.fingerprint import source_fingerprint
from components.validate.drift.history import state
from pipeline.config import RunConfig
from pipeline.keys import step_keys


class Snapshot(BaseModel):
    """What a run found at its beginning: a digest of the source's content, and the key of each step."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    digest: str
    keys: dict[str, str]


def take(config: RunConfig, digest: str = "") -> Snapshot:
    """Return the snapshot of the source as it is now (`digest`, where it is known) and of the history it is judged by.

    Raises ConfigError for a source that does not exist.
    """
    digest = digest or source_fingerprint(config.ingest)
    known = _known_dataset(config.work_dir, step_keys(config, digest)["ingest"])
    return Snapshot(digest=digest, keys=step_keys(config, digest, state(config.history, known)))


def keep(snapshot: Snapshot, work_dir: Path, job_name: str) -> None:
    """Write a snapshot where the report of the run finds it."""
    write_text(_file(work_dir, job_name), snapshot.model_dump_json(indent=1))


def kept(work_dir: Path, job_name: str) -> Snapshot | None:
    """Return the snapshot of a run, None where none was taken or it cannot be read."""
    try:
        return Snapshot.model_validate_json(_file(work_dir, job_name).read_bytes())
    except (OSError, ValidationError):
        return None


def _file(work_dir: Path, job_name: str) -> Path:
    return work_dir / "journal" / f"snapshot-{digest_of(job_name)[:24]}.json"


def _known_dataset(work_dir: Path, ingest_key: str) -> str:
    """Return the digest of the dataset that ingest has made of this source before, empty where it has not."""
    try:
        entry = read_entry(work_dir, "ingest", ingest_key)
    except (OSError, ValidationError):  # the report says so; here it only means that the dataset is not known
        return ""
    return entry.artifact.digest if entry and entry.artifact else ""
