"""What every step does around its work: read its section, run it, keep a record, end with its exit code."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import signal
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.common.errors import InterruptedStepError, PipelineError
from components.common.journal import record_failure, recorded
from components.common.section import Summary
from components.push.registry.location import open_registry
from components.push.registry.registry import read_champion
from components.tpu_check.config import TpuCheckConfig
from components.train.config import TrainConfig
from components.train.devices.tpu_runtime import prepare
from pipeline.config import RunConfig
from pipeline.keys import step_keys

SECTIONS = {"tpu_check": TpuCheckConfig} | {step: type(section) for step, section in RunConfig().sections().items()}


def run_step(step: str, config: str, key: str, work_dir: str, out: Any, **inputs: Any) -> None:
    """Run a component on KFP artifacts: `config` is its section as JSON, `out` and `inputs` are dsl artifacts.

    A PipelineError ends the process with its sentence and its exit code; any other exception passes through.
    """
    folders = {name: Path(artifact.path) for name, artifact in inputs.items()}

    def body() -> Summary:
        section = SECTIONS[step].model_validate_json(config)
        if isinstance(section, TrainConfig):
            prepare(section.devices)  # before TensorFlow is imported: it looks for a TPU then
        run = importlib.import_module(f"components.{step}.run").run
        with _champion_of(getattr(section, "start_from", "")) as champion:
            known = {"work_dir": Path(work_dir), "registry": getattr(section, "registry", ""), "start": champion}
            asked = {name: place for name, place in known.items() if name in inspect.signature(run).parameters}
            summary: Summary = run(section, **folders, **asked, out=Path(out.path))
        return summary

    signal.signal(signal.SIGTERM, _interrupt)  # train replaces it while it trains: it saves first
    try:
        summary = recorded(step, key, Path(work_dir), Path(out.path), body, **folders)
    except PipelineError as error:
        print(f"{step}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    # KFP turns numbers in metadata into floats, and refuses None: strings are what comes back as it went in.
    out.metadata.update({name: str(value) for name, value in summary.model_dump().items()})


@contextlib.contextmanager
def _champion_of(registry: str) -> Iterator[Path | None]:
    """Give the version in service of a registry as a folder, None where there is none."""
    if not registry:
        yield None
        return
    with open_registry(registry, versions=["champion"]) as folder:
        champion = read_champion(folder)
        yield champion.path if champion else None


def _interrupt(*_: object) -> None:
    raise InterruptedStepError("Stopped by SIGTERM.", "Run again to go on.")


def run_snapshot(run: str, job_name: str) -> Any:
    """Return the keys of this run's steps, by name, from what the source holds now, and leave them for the report.

    What cannot be read is ingest's failure, and told as such.
    """
    from components.report.description import RunDescription
    from pipeline import snapshot

    description = RunDescription.model_validate_json(run)
    config = RunConfig.model_validate_json(json.dumps(description.config))
    work_dir = Path(description.work_dir)
    try:
        found = snapshot.take(config)
    except PipelineError as error:
        unknown = snapshot.Snapshot(digest="", keys=step_keys(config, job_name))
        snapshot.keep(unknown, work_dir, job_name)
        record_failure("ingest", unknown.keys["ingest"], work_dir, error)
        print(f"snapshot: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    snapshot.keep(found, work_dir, job_name)
    print(f"snapshot: the source is {found.digest[:12]}")
    keys = {"tpu_check": "", **found.keys}
    return namedtuple("Keys", keys)(**keys)


def run_report(run: str, job_name: str, created_at: str, state: str, message: str, page: Any) -> None:
    """Write the report of a run into its folder and, for platforms that show it, into the HTML artifact `page`.

    A compiled pipeline does not know its runs: `job_name` and `created_at` come from the platform then.
    """
    from components.report.description import RunDescription  # here: no other step should pay for the report's imports
    from components.report.run import run as write_report
    from pipeline import snapshot

    description = RunDescription.model_validate_json(run)
    if not description.run_id:
        found = snapshot.kept(Path(description.work_dir), job_name)
        known = {"run_id": job_name, "started_at": created_at, "keys": found.keys if found else description.keys}
        description = description.model_copy(update=known)
    folder = Path(description.folder) if description.folder else Path(page.path).parent
    status = "succeeded" if state == "SUCCEEDED" else "failed"
    write_report(description, folder=folder, status=status, message=message)
    Path(page.path).write_bytes((folder / "report.html").read_bytes())
