"""Run a compiled file with KFP's local runner: python -m tests.support.servers.run_compiled FILE ROOT ARGUMENTS CACHE JOB.

FILE is a file that `compile` wrote or `submit` sent; nothing else of the pipeline is known here. The job's creation time, names
and id, which platforms fill in and KFP's local runner does not or does otherwise, are filled in here from JOB, and the exit
handler gets the final status that the platform gives it. The folder `gcs` beside ROOT has the place of /gcs, where Vertex AI
mounts the buckets. Exits with 0 if the run succeeded.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from components.common.artifacts import now

ROOT = Path(__file__).parents[3]
LAUNCHER = "google_cloud_pipeline_components.container.v1.custom_job.launcher"


class Job(NamedTuple):
    """What a platform fills in: the run's names and id. `kubeflow` is whether the exit handler gets Kubeflow's final status."""

    id: str
    name: str
    resource_name: str
    kubeflow: bool = False


def start_compiled(
    file: Path,
    root: Path,
    cache: Path,
    job: Job,
    arguments: dict[str, Any] | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen[bytes]:
    """Start a process that runs `file`, in a process group of its own, with its output in `root`/log.

    In its `environment`, STEP_PYTHON is the program that runs the Python of each step.
    """
    root.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "tests.support.servers.run_compiled",
        str(file),
        str(root),
        json.dumps(arguments or {}),
        str(cache),
        json.dumps(job),
    ]
    with (root / "log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def ended_tasks(root: Path) -> dict[str, str]:
    """Return the state of each task that ended in the run of `root`, from its log."""
    ended = re.findall(r"Task .*?'([\w-]+)'.*? finished with status .*?(SUCCESS|FAILURE)", (root / "log").read_text())
    return {task: {"SUCCESS": "SUCCEEDED", "FAILURE": "FAILED"}[state] for task, state in ended}


def main(file: Path, root: Path, arguments: str, cache: str, job: Job) -> int:
    """Run FILE with its default arguments and `arguments` (JSON); outputs go to ROOT, the platform's cache to `cache`."""
    from kfp import components, local

    document = file.read_text().split("\n---\n")[0]  # the second document has Kubernetes settings
    known = {"create_time_utc": now(), "uuid": job.id, "name": job.name, "resource_name": job.resource_name}
    for placeholder, value in known.items():
        document = document.replace(f"{{{{$.pipeline_job_{placeholder}}}}}", value)
    document = document.replace("/gcs/", f"{root.parent}/gcs/")
    sys.executable = os.environ.get("STEP_PYTHON", sys.executable)
    if job.kubeflow:
        give_final_status_of_kubeflow()
    (root / "tmp").mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(root / "tmp")
    folders = {"pipeline_root": str(root / "steps"), "workspace_root": str(root / "work"), "cache_root": cache}
    local.init(local.SubprocessRunner(use_venv=False), enable_caching=True, **folders)
    pipeline = components.load_component_from_text(yaml.safe_dump(without_custom_jobs(yaml.safe_load(document))))
    try:
        pipeline(**json.loads(arguments))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def give_final_status_of_kubeflow() -> None:
    """Give exit handlers the final status of Kubeflow Pipelines 2.17.0: ML Metadata's state, and never an error."""
    from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils

    local_arguments = OrchestratorUtils.make_task_arguments

    def make_task_arguments(*given: Any, **named: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = local_arguments(*given, **named)
        for value in arguments.values():
            if isinstance(value, dict) and "pipeline_task_name" in value:
                value.update(state={"SUCCEEDED": "COMPLETE"}.get(value["state"], value["state"]), error={})
        return arguments

    OrchestratorUtils.make_task_arguments = make_task_arguments


def without_custom_jobs(spec: dict[str, Any]) -> dict[str, Any]:
    """Replace each launcher of a custom job by the container of the job, which Vertex would start.

    The payload of a launcher is escaped (`json_escape`); the container gets it unescaped.
    """
    for executor in spec["deploymentSpec"]["executors"].values():
        if LAUNCHER not in executor["container"].get("command", []):
            continue
        (component,) = [
            each
            for each in spec["components"].values()
            if spec["deploymentSpec"]["executors"].get(each.get("executorLabel")) is executor
        ]
        inputs = component["inputDefinitions"]["parameters"]
        (pool,) = inputs["worker_pool_specs"]["defaultValue"]
        container = pool["container_spec"]
        args = [word.replace("{{$.json_escape[1]}}", "{{$}}") for word in container["args"]]
        executor["container"] = {"image": container["image_uri"], "command": container["command"], "args": args}
        component["inputDefinitions"]["parameters"] = {
            name: each for name, each in inputs.items() if not each.get("isOptional")
        }
        del component["outputDefinitions"]["parameters"]
    return spec


if __name__ == "__main__":
    FILE, OUTPUT, ARGUMENTS, CACHE, JOB = sys.argv[1:]
    sys.exit(main(Path(FILE), Path(OUTPUT), ARGUMENTS, CACHE, Job(*json.loads(JOB))))
