"""Run a compiled file with KFP's local orchestrator: python -m tests.support.run_compiled FILE ROOT [ARGUMENTS [CACHE]].

FILE is what `compile` writes or `submit` sends; nothing else of the pipeline is used. The creation time of the job, which
platforms fill in but KFP's local runner does not, is filled in here. The exit code is 0 if the run succeeded.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from components.common.artifacts import now


def main(file: Path, root: Path, arguments: str = "{}", cache: str = "") -> int:
    """Run a file with its defaults and `arguments` (JSON); the outputs go below `root`, the platform's cache is in `cache`."""
    from kfp import components, local

    document = file.read_text().split("\n---\n")[0]  # the second document is for Kubernetes
    document = document.replace("{{$.pipeline_job_create_time_utc}}", now())
    (root / "tmp").mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(root / "tmp")
    caching = {"enable_caching": True, "cache_root": cache} if cache else {}
    local.init(
        local.SubprocessRunner(use_venv=False), pipeline_root=str(root / "steps"), workspace_root=str(root / "work"), **caching
    )
    pipeline = components.load_component_from_text(yaml.safe_dump(with_custom_jobs_run(yaml.safe_load(document))))
    try:
        pipeline(**json.loads(arguments))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def with_custom_jobs_run(spec: dict[str, Any]) -> dict[str, Any]:
    """Replace each launcher of a custom job by the container that the job would run on Vertex.

    Values in the launcher's payload are escaped (`json_escape`); the container takes them unescaped.
    """
    for executor in spec["deploymentSpec"]["executors"].values():
        if "google_cloud_pipeline_components.container.v1.custom_job.launcher" not in executor["container"].get("command", []):
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
