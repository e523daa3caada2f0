"""What surrounds the work of every step: read its section, run it, write its journal entry, exit with its code.

Each step is a process, so this file imports what every step needs, and each function the rest.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import re
import signal
import sys
import tempfile
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

from components.common.artifacts import digest_of, json_bytes, write_bytes
from components.common.errors import ArtifactError, InterruptedStepError, PipelineError
from components.common.journal import SNAPSHOT, listing_name, record_failure, recorded
from components.common.section import Section, Summary
from components.common.store import Folder, Store, store_at
from pipeline.displays import fill_displays

if TYPE_CHECKING:
    from components.report.description import RunDescription

# The class of each step's section, in components/STEP/config.py.
SECTIONS = {
    "ingest": "IngestConfig",
    "validate": "ValidateConfig",
    "tpu_check": "TpuCheckConfig",
    "train": "TrainConfig",
    "evaluate": "EvaluateConfig",
    "gate": "GateTask",
    "push": "PushConfig",
}
TERMINATION_LOG = Path("/dev/termination-log")  # Kubernetes shows this file with the exit code, and `submit` reads it there


class PlatformRun(NamedTuple):
    """What a platform knows of the run of a compiled pipeline: its id, its two names, and its start (ISO 8601).

    Kubeflow Pipelines leaves the job's name empty in scheduled runs; `resource_name` is there the name of Argo's workflow, and
    on Vertex AI a path that ends with the job's name.
    """

    id: str
    job_name: str
    resource_name: str
    created_at: str

    @property
    def name(self) -> str:
        """The name for people: the job's, else the last part of the resource's, else the id."""
        return self.job_name or self.resource_name.rpartition("/")[2] or self.id


def run_step(
    step: str, config: str, key: str, work_dir: str, out: Any, displays: Mapping[str, Any] | None = None, **inputs: Any
) -> None:
    """Run a component on KFP artifacts: `config` is its section as JSON, `out` and `inputs` are dsl artifacts.

    `displays` are the artifacts that the platform shows, by name; what is in them says displays.py.
    A PipelineError ends the process with its message and its exit code; other exceptions pass through.
    """
    folders = {name: Path(artifact.path) for name, artifact in inputs.items()}

    def body() -> Summary:
        work = store_at(work_dir)
        section = _section(step, config)
        if devices := getattr(section, "devices", ""):  # only train has them
            from components.train.devices.tpu_runtime import prepare

            prepare(devices)  # before TensorFlow is imported, which looks for a TPU then
        run = importlib.import_module(f"components.{step}.run").run
        parameters = inspect.signature(run).parameters
        with contextlib.ExitStack() as stack:
            champion = stack.enter_context(_champion_folder(getattr(section, "start_from", "")))
            listing = stack.enter_context(_local_file(work, listing_name(key))) if "listing" in parameters else None
            known = {
                "work_dir": work_dir,
                "listing": listing,
                "registry": getattr(section, "registry", ""),
                "start": champion,
            }
            accepted = {name: value for name, value in known.items() if name in parameters}
            summary: Summary = run(section, **folders, **accepted, out=Path(out.path))
        if listing:
            work.delete(listing_name(key))  # no other run needs it
        fill_displays(step, summary, Path(out.path), folders, displays or {})
        return summary

    try:
        with stopped_by_sigterm():
            summary = recorded(step, key, work_dir, Path(out.path), body, **folders)
    except PipelineError as error:
        _exit(step, error)
    # KFP turns numbers in metadata into floats and refuses None; strings come back unchanged.
    out.metadata.update({name: str(value) for name, value in summary.model_dump().items()})


def begin_run(run: str, target: str, job: PlatformRun, parameters: Mapping[str, Any], overrides: Sequence[object]) -> Any:
    """Return the section and the key of each step of a run on a platform, as a named tuple.

    `run` is the description in the compiled file; the run's own config follows from it, `parameters` and `overrides`, and the
    keys from the present content of the source. The report gets both through a file in the journal, and, if a parameter is
    wrong or the source cannot be read, a record of the step `snapshot` with the error. The run gets its folder in run.dir, so
    that it can be watched.
    """
    from components.report.description import RunDescription
    from pipeline.arguments import step_arguments
    from pipeline.config import RunConfig, with_folders
    from pipeline.keys import step_keys
    from pipeline.parameters import resolve_run
    from pipeline.snapshot import list_source, save_run, take_snapshot  # needs packages that the train-tpu image lacks

    started = {"run_id": job.name, "started_at": job.created_at}
    description = RunDescription.model_validate_json(run).model_copy(update=started)
    base = RunConfig.model_validate_json(json.dumps(description.config))
    config = with_folders(base)
    try:
        try:
            config = resolve_run(base, parameters, overrides, target)
            with stopped_by_sigterm(), list_source(config) as source:
                keys = take_snapshot(config, source)
        except PipelineError as error:
            keys = {SNAPSHOT: digest_of(job.id), **step_keys(config, job.id)}
            save_run(description.model_copy(update={"config": config.as_dict(), "keys": keys}), job.id)
            record_failure(SNAPSHOT, keys[SNAPSHOT], config.work_dir, error)
            raise
        description = description.model_copy(update={"config": config.as_dict(), "keys": keys})
        save_run(description, job.id)
    except PipelineError as error:
        _exit(SNAPSHOT, error)
    with contextlib.suppress(ArtifactError):  # the report will say so
        _with_folder(description, job)
    print(f"{SNAPSHOT}: the digest of the source is {source.digest[:12]}")
    found = {"tpu_check_config": "", "tpu_check_key": "", **step_arguments(config, keys)}
    return namedtuple("Arguments", found)(**found)


def write_run_report(run: str, job: PlatformRun, state: str, message: str, page: Any) -> None:
    """Write the report of a run into its folder and, for platforms that show it, into the HTML artifact `page`.

    A run on a platform gets a folder in run.dir, as a local one has. `state` and `message` are the platform's words; what the
    steps recorded decides how the run ended.
    """
    from components.report.description import RunDescription
    from components.report.run import run as write_report
    from pipeline.snapshot import load_run

    description = RunDescription.model_validate_json(run)
    of_platform = not description.run_id
    if of_platform:
        description = load_run(description.work_dir, job.id) or description
        description = description.model_copy(update={"run_id": job.name, "started_at": job.created_at})
    try:
        description = _with_folder(description, job) if of_platform else description
        write_report(description, folder=description.folder, status=state, message=message)
    except ArtifactError as error:  # run.dir cannot be written, or its volume is full: the platform still shows the page
        print(f"report: {error}", file=sys.stderr)
        description = description.model_copy(update={"folder": str(Path(page.path).parent)})
        write_report(description, folder=description.folder, status=state, message=message)
    Path(page.path).write_bytes(store_at(description.folder).read("report.html"))


def _with_folder(description: RunDescription, job: PlatformRun) -> RunDescription:
    """Return the description of a run on a platform with its folder in run.dir, which `runs` reads: it is written here.

    Raises ArtifactError if run.dir cannot be written.
    """
    runs = store_at(description.config["run"]["dir"])
    name = _run_folder(runs, job)
    found = description.model_copy(update={"folder": f"{runs.location}/{name}"})
    runs.write(f"{name}/config.json", [json_bytes(found.config)], sync=True)
    runs.write(f"{name}/run.json", [json_bytes(found.model_dump(mode="json"))], sync=True)
    return found


def _run_folder(runs: Store, job: PlatformRun) -> str:
    """Return the name of a run's folder: the name of the run, with its id if another folder has that name."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", job.name).strip("-.")[:100] or job.id
    if name not in runs.names():
        return name
    try:
        mine = json.loads(runs.read(f"{name}/run.json"))["started_at"] == job.created_at
    except (OSError, ValueError, KeyError, TypeError):
        mine = False
    return name if mine else f"{name}-{job.id[:8]}"


@contextlib.contextmanager
def _local_file(store: Store, name: str) -> Iterator[Path | None]:
    """Yield the path of a file of the store, or of a temporary copy; None if there is no such file."""
    if isinstance(store, Folder):
        yield store.path / name if (store.path / name).is_file() else None
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PurePosixPath(name).name
        with contextlib.suppress(FileNotFoundError):
            write_bytes(file, store.read(name))
        yield file if file.is_file() else None


@contextlib.contextmanager
def _champion_folder(location: str) -> Iterator[Path | None]:
    """Yield the folder of a registry's champion, None if there is none."""
    if not location:
        yield None
        return
    from components.registry.registry import Registry

    champion = Registry(location).champion()
    with Registry(location).open_version(champion.version) if champion else contextlib.nullcontext() as folder:
        yield folder


def _section(step: str, config: str) -> Section:
    section = getattr(importlib.import_module(f"components.{step}.config"), SECTIONS[step])
    return cast(Section, section.model_validate_json(config))


def _exit(step: str, error: PipelineError) -> NoReturn:
    print(f"{step}: {error}", file=sys.stderr)
    with contextlib.suppress(OSError), TERMINATION_LOG.open("r+") as file:  # "r+" creates nothing elsewhere
        file.write(str(error))
    raise SystemExit(error.exit_code) from None


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Raise InterruptedStepError at SIGTERM. Without a handler, the first process of a container ignores this signal.

    The handler raises KeyboardInterrupt: while libraries are imported, they catch each Exception at some places. Train installs
    its own handler, which saves.
    """
    stopped = InterruptedStepError("Stopped by SIGTERM.", "Run again to resume.")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt(stopped.problem)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt as error:
        if not error.args:  # Ctrl-C
            raise
        raise stopped from None
