"""Programs that deploy/engines/get installs for the tests: Beam's other runners with their options, and gcsfuse."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

ENGINES = Path(__file__).parents[2] / ".engines"
LOCAL = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
HOW = "run make engines"
NEEDS = {
    "flink": ("java", "mvn"),
    "prism": ("go",),
    "gcsfuse": ("go", "fusermount3"),
    "fake-gcs-server": ("go",),
    "versitygw": ("go",),
}


class EngineMissingError(Exception):
    """An engine is not installed; the message says how to install it."""


def engine_options(name: str) -> tuple[str, ...]:
    """Return ingest.beam_options for an engine. Raises EngineMissingError if it is not installed."""
    if name.startswith("flink"):
        options = (
            "--runner=FlinkRunner",
            "--flink_master=[local]",
            f"--flink_job_server_jar={flink_job_server()}",
            "--parallelism=2",
        )
        worker = Path(sys.executable).with_name("wgan-beam-worker")
        process = ("--environment_type=PROCESS", f"--environment_config={json.dumps({'command': str(worker)})}")
        return (*options, *(process if name == "flink-processes" else ("--environment_type=LOOPBACK",)))
    if name == "prism":
        prism = _existing(ENGINES / "prism", "prism")
        return ("--runner=PrismRunner", f"--prism_location={prism}", "--environment_type=LOOPBACK")
    mode = {"threads": "multi_threading", "processes": "multi_processing"}[name]
    return (LOCAL, f"--direct_running_mode={mode}", "--direct_num_workers=2")


def flink_job_server() -> Path:
    """Return the path of Beam's job server for Flink. Raises EngineMissingError."""
    return _existing(ENGINES / "flink-job-server.jar", "flink")


def installed_program(name: str) -> Path:
    """Return the path of a program in .engines. Raises EngineMissingError."""
    return _existing(ENGINES / name, name)


def is_installable(name: str) -> bool:
    """Return whether this machine has the tools with which `make engines` installs an engine."""
    return all(shutil.which(tool) for tool in NEEDS.get(name.partition("-")[0], ()))


def _existing(file: Path, engine: str) -> Path:
    if not file.exists():
        raise EngineMissingError(f"{file.name} is not installed: {HOW} (needs {' and '.join(NEEDS[engine])})")
    return file
