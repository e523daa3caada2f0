"""Run the whole pipeline on this machine with KFP: each step as a process, or in a container."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shlex
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from components.common.addresses import is_address
from components.common.artifacts import now, write_json, write_text
from components.common.errors import ArtifactError, ConfigError
from components.common.journal import read_entry
from components.common.mounts import is_mounted_bucket
from components.common.processes import is_alive
from components.registry.registry import Registry, check_image_size
from components.report.description import RunDescription
from components.train.devices.gpu_runtime import check_driver
from components.train.devices.tpu_runtime import check_machine
from pipeline.arguments import as_argument, describe_run, step_arguments
from pipeline.config import RunConfig, as_toml, resolve_paths
from pipeline.snapshot import list_source, take_snapshot
from pipeline.targets.local import docker, process
from pipeline.targets.local.terminal import shown_on

Runner = Literal["subprocess", "docker"]
WAIT_FOR_STEP_SECONDS = 60.0
# Without TensorFlow's log lines, and with unbuffered output.
STEP_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1"}


def check_before_running(config: RunConfig) -> dict[str, str]:
    """Check everything that can be checked before a step starts; return the keys of the steps.

    Raises ConfigError for a source that does not exist, a folder that cannot be written and a champion of another image size,
    DeviceError for a missing TPU or GPU.
    """
    if config.train.devices == "tpu":
        check_machine(os.environ)
    elif config.train.devices == "gpu":
        check_driver()
    if is_address(config.run.dir):
        raise ConfigError(
            f"run.dir = {config.run.dir!r} is a URL, but the steps of a local run exchange files in a folder.",
            "Use a folder for run.dir; run.work_dir, push.registry and validate.history may be URLs.",
        )
    with list_source(config) as source:
        for location in (config.run.dir, config.work_dir, config.registry, config.history):
            if not is_address(location):
                _check_writable(Path(location))
        registry = Registry(config.registry)
        champion = registry.champion()
        if champion is not None:
            check_image_size(champion, registry.location, config.ingest.image_size, config.ingest.channels)
            with registry.open_version(champion.version):  # every file is checked now, and not only hours later
                pass
        return take_snapshot(config, source)


def run_locally(
    config: RunConfig, console: Console, runner: Runner = "subprocess", comment: Sequence[str] = ()
) -> dict[str, Any]:
    """Run every step; return the run's summary as in summary.json. Raises ConfigError before anything is written.

    The run's folder gets a config.toml, with these lines of comment, that repeats the run.
    """
    config = resolve_paths(config)
    if runner == "docker":
        docker.check_devices(config.train.devices)
        with docker.engine_client() as client:
            docker.check_image(client, config)
    keys = check_before_running(config)
    started_at = now()
    folder = _new_run_folder(Path(config.run.dir))
    process.mark(folder)
    write_json(folder / "config.json", config.as_dict())
    write_text(folder / "config.toml", as_toml(config, comment))
    description = describe_run(config, keys, run_id=folder.name, started_at=started_at, folder=str(folder))
    write_json(folder / "run.json", description.model_dump(mode="json"))
    console.print(f"Run [bold]{folder.name}[/] in {folder}", highlight=False, soft_wrap=True)
    elsewhere = "" if folder.parent == Path("runs").absolute() else f" --runs-dir {shlex.quote(str(folder.parent))}"
    console.print(f"Watch it: wgan-pipeline watch {folder.name}{elsewhere}", markup=False, highlight=False, soft_wrap=True)
    status, message = _run_pipeline(config, description, folder, console, runner)
    summary = _summary(description, folder, status, message)
    _point_latest(folder)
    return summary


def _run_pipeline(
    config: RunConfig, description: RunDescription, folder: Path, console: Console, runner: Runner
) -> tuple[str, str]:
    """Run the graph in KFP; return the status and KFP's message. The errors of the steps are in the journal."""
    from kfp import local  # takes 0.7 s, so only after the config was checked

    from pipeline.graph import checks_before_train, known, make_pipeline

    in_containers = runner == "docker"
    kfp_runner = local.SubprocessRunner(use_venv=False)
    if in_containers:
        settings = docker.container_settings(network=docker.needs_network(config), environment=STEP_ENVIRONMENT)
        kfp_runner = local.DockerRunner(**settings)
    cache = folder.parent / ".work" if is_address(config.work_dir) else Path(config.work_dir)
    folders = {"pipeline_root": str(folder / "steps"), "cache_root": str(cache / "cache")}
    arguments = known(step_arguments(config, description.keys))

    def place(task: Any, _: str) -> None:
        if in_containers:
            task.set_container_image(config.deploy.image)

    containers = docker.kfp_uses_run_container(docker.find_mounts(config)) if in_containers else contextlib.nullcontext()
    shown = shown_on(console, folder / "run.log")
    try:
        with _scratch(folder) as scratch, shown, _environment(scratch), _sigterm_as_interrupt(), containers:
            local.init(kfp_runner, workspace_root=str(scratch / "workspace"), enable_caching=True, **folders)
            make_pipeline(place, checks_before_train(config), arguments, as_argument(description), description.work_dir)()
    except KeyboardInterrupt:
        console.print("Stopping: the step saves its progress; press Ctrl-C again to exit at once.", highlight=False)
        if not in_containers:  # run_container has stopped those
            _end_running_step(description)
        return "interrupted", "Interrupted."
    except RuntimeError as error:  # kfp: "Pipeline … finished with status FAILURE. Inner task failed: …"
        return "failed", str(error)
    return "succeeded", ""


def _summary(description: RunDescription, folder: Path, status: str, message: str) -> dict[str, Any]:
    """Return summary.json; write it if the report step could not, or does not know that the run was interrupted or failed."""
    file = folder / "summary.json"
    written = json.loads(file.read_text()) if file.is_file() else {}
    if status == "interrupted" or (status == "failed") != (written.get("status") == "failed"):
        from components.report.run import run as write_report

        write_report(description, folder=folder, status=status, message=message)
        written = json.loads(file.read_text())
    return dict(written)


def _end_running_step(description: RunDescription) -> None:
    """Send SIGTERM to the running step, which may not have received Ctrl-C, and wait until it has saved."""
    deadline = time.monotonic() + WAIT_FOR_STEP_SECONDS
    signalled: set[int] = set()
    while time.monotonic() < deadline:
        entries = [read_entry(description.work_dir, step, key) for step, key in description.keys.items()]
        running = [entry.pid for entry in entries if entry and entry.state == "running" and is_alive(entry.pid)]
        if not running:
            return
        for pid in set(running) - signalled:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            signalled.add(pid)
        time.sleep(0.1)


def _new_run_folder(runs: Path) -> Path:
    """Create runs/<time>, with a number if several runs start in one second."""
    stamp = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = runs / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ArtifactError(f"{runs} already has 999 runs of this second.", "Run again.")


def _check_writable(folder: Path) -> None:
    if "python3" in str(folder):  # kfp.local 2.17.0 replaces it in every path by the interpreter's path
        raise ConfigError(f"{folder} contains python3, which KFP's local runner garbles.", "Set run.dir to another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}.", "Set run.dir to a writable folder.") from None


def _point_latest(folder: Path) -> None:
    """Point runs/latest to this run, atomically."""
    fresh = folder.parent / f".latest-{folder.name}"
    fresh.symlink_to(folder.name)
    fresh.replace(folder.parent / "latest")


@contextlib.contextmanager
def _scratch(run: Path) -> Iterator[Path]:
    """Yield a folder for temporary files: in the folder of the run, or on this machine's disk if that is a mounted bucket."""
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=None if is_mounted_bucket(run) else run) as folder:
        (Path(folder) / "workspace").mkdir()
        yield Path(folder)


@contextlib.contextmanager
def _environment(scratch: Path) -> Iterator[None]:
    """Set the environment of the steps, with TMPDIR in the run's folder, since KFP leaves a temporary folder for each task."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in STEP_ENVIRONMENT.items() if name not in before})
    os.environ["TMPDIR"] = str(scratch)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
