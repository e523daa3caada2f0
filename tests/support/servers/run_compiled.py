"""Run a compiled file with KFP's local runner: python -m tests.support.servers.run_compiled FILE ROOT [ARGUMENTS [CACHE]].

FILE is a file that `compile` wrote or `submit` sent; nothing else of the pipeline is known here. The creation time of the job,
which platforms fill in and KFP's local runner does not, is filled in here. The folder `gcs` beside ROOT has the place of /gcs,
where Vertex AI mounts the buckets. Exits with 0 if the run succeeded.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from components.common.artifacts import now

ROOT = Path(__file__).parents[3]
LAUNCHER = "google_cloud_pipeline_components.container.v1.custom_job.launcher"


def start_compiled(file: Path, root: Path, cache: Path, arguments: dict[str, Any] | None = None) -> subprocess.Popen[bytes]:
    """Start a process that runs `file`, in a process group of its own, with its output in `root`/log."""
    root.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "tests.support.servers.run_compiled",
        str(file),
        str(root),
        json.dumps(arguments or {}),
        str(cache),
    ]
    with (root / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def ended_tasks(root: Path) -> dict[str, str]:
    """Return the state of each task that ended in the run of `root`, from its log."""
    ended = re.findall(r"Task .*?'([\w-]+)'.*? finished with status .*?(SUCCESS|FAILURE)", (root / "log").read_text())
    return {task: {"SUCCESS": "SUCCEEDED", "FAILURE": "FAILED"}[state] for task, state in ended}


def main(file: Path, root: Path, arguments: str = "{}", cache: str = "") -> int:
    """Run FILE with its default arguments and `arguments` (JSON); outputs go to ROOT, the platform's cache to `cache`."""
    from kfp import components, local

    document = file.read_text().split("\n---\n")[0]  # the second document has Kubernetes settings
    document = document.replace("{{$.pipeline_job_create_time_utc}}", now()).replace("/gcs/", f"{root.parent}/gcs/")
    (root / "tmp").mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(root / "tmp")
    caching = {"enable_caching": True, "cache_root": cache} if cache else {}
    local.init(
        local.SubprocessRunner(use_venv=False), pipeline_root=str(root / "steps"), workspace_root=str(root / "work"), **caching
    )
    pipeline = components.load_component_from_text(yaml.safe_dump(without_custom_jobs(yaml.safe_load(document))))
    try:
        pipeline(**json.loads(arguments))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


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
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
