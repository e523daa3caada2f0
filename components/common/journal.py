"""The journal records what each step did, so that the report can show steps that failed, were killed or came from the cache.

A step's key is a digest of its config, its code and the keys of the steps before it. The configuration therefore determines
the name of every entry, and tasks need not pass anything to each other. An entry is written as `running` when the step
starts; if it still says `running` after its process has ended, the step was killed. Entries are in the store of the work
directory: a folder, or a URL.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.common.artifacts import now, read_manifest
from components.common.errors import InterruptedStepError, PipelineError, first_line
from components.common.section import Frozen, Summary
from components.common.store import Location, store_at

STEPS = ("ingest", "validate", "train", "evaluate", "gate", "push")  # a run on a TPU also has tpu_check, before train
SNAPSHOT = "snapshot"  # the first step of a run on a platform; it has an entry only if it failed
State = Literal["running", "succeeded", "failed", "interrupted"]


class StepError(Frozen):
    """Why a step failed."""

    kind: str
    problem: str
    cure: str
    exit_code: int
    traceback: str


class ArtifactRef(Frozen):
    """Path and digest of an artifact."""

    path: str
    digest: str


class StepRecord(Frozen):
    """One entry of the journal."""

    step: str
    key: str
    state: State
    pid: int
    started_at: str
    finished_at: str = ""
    seconds: float = 0.0
    summary: dict[str, Any] = Field({})
    artifact: ArtifactRef | None = None
    inputs: dict[str, ArtifactRef] = Field({})
    error: StepError | None = None


def entry_name(step: str, key: str) -> str:
    """Return the name of a step's entry in the work directory."""
    return f"journal/{step}-{key[:24]}.json"


def listing_name(key: str) -> str:
    """Return the name of the file with the listing of a source that ingest will read, by the key of ingest."""
    return f"journal/listing-{key[:24]}.gz"


def read_entry(work_dir: Location, step: str, key: str) -> StepRecord | None:
    """Return a step's entry, or None if the step has never run. Raises ArtifactError, or ValidationError if it is damaged."""
    try:
        return StepRecord.model_validate_json(store_at(work_dir).read(entry_name(step, key)))
    except FileNotFoundError:
        return None


def write_entry(work_dir: Location, record: StepRecord) -> None:
    """Write a step's entry in place of an earlier one. Raises ArtifactError."""
    content = record.model_dump_json(indent=1).encode()
    store_at(work_dir).write(entry_name(record.step, record.key), [content], sync=True)


def recorded(step: str, key: str, work_dir: Location, out: Path, body: Callable[[], Summary], **inputs: Path) -> Summary:
    """Run `body`, which writes the artifact `out` from `inputs`; record its start and its result or exception."""
    started, clock = now(), time.monotonic()
    refs: dict[str, ArtifactRef] = {}

    def write(state: State, **fields: Any) -> None:
        seconds = time.monotonic() - clock
        record = StepRecord(
            step=step, key=key, state=state, pid=os.getpid(), started_at=started, seconds=seconds, inputs=refs, **fields
        )
        write_entry(work_dir, record)

    write("running")
    try:
        for name, path in inputs.items():  # `body` checks the files while it reads them
            refs[name] = ArtifactRef(path=str(path), digest=read_manifest(path, verify=False).digest)
        summary = body()
        manifest = read_manifest(out, verify=False)
    except (KeyboardInterrupt, InterruptedStepError) as error:
        write("interrupted", finished_at=now(), error=step_error(error))
        raise
    except BaseException as error:
        write("failed", finished_at=now(), error=step_error(error))
        raise
    artifact = ArtifactRef(path=str(out), digest=manifest.digest)
    write("succeeded", finished_at=now(), summary=summary.model_dump(mode="json"), artifact=artifact)
    return summary


def record_failure(step: str, key: str, work_dir: Location, error: PipelineError) -> None:
    """Write the entry of a step that could not start."""
    record = StepRecord(
        step=step, key=key, state="failed", pid=os.getpid(), started_at=now(), finished_at=now(), error=step_error(error)
    )
    write_entry(work_dir, record)


def step_error(error: BaseException) -> StepError:
    """Describe an exception: a PipelineError by its problem and cure, any other by its type and first line."""
    kind, exit_code = type(error).__name__, 1
    if isinstance(error, PipelineError):
        problem, cure, exit_code = error.problem, error.cure, error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        problem, cure = str(error) or "Interrupted by Ctrl-C.", "Run again to resume."
    else:
        problem, cure = f"{kind}: {first_line(error)}.", "Run with --debug for the traceback."
    text = "".join(traceback.format_exception(error))
    return StepError(kind=kind, problem=problem, cure=cure, exit_code=exit_code, traceback=text)
