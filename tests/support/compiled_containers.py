"""Start the commands in a compiled file as Vertex AI does: each is the first process of a container with the bucket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import RunConfig, override_config, with_folders
from pipeline.targets.compiled import read_compiled
from pipeline.targets.local.docker import container_settings
from tests.support.command_line import run
from tests.support.servers.run_compiled import without_custom_jobs
from tests.support.two_runs import CONFIG

BUCKET = "/gcs/bucket"
LABELS = {"test": "machine"}


class Machine:
    """A machine of Vertex AI, with a pipeline that was compiled with train as a custom job, and an empty bucket.

    train runs on a CPU here, which changes its config and not its command.
    """

    def __init__(self, client: Any, image: str, folder: Path, *settings: str) -> None:
        self.client, self.image, self.bucket = client, image, folder / "bucket"
        self.bucket.mkdir()
        config, file = folder / "c.toml", folder / "p.yaml"
        config.write_text(CONFIG)
        words = [f"--set={setting}" for setting in [f"run.dir={BUCKET}/runs", "train.devices=tpu", *settings]]
        code, said = run("compile", str(config), "--target", "vertex", "-o", str(file), *words)
        assert code == 0, said
        self.config = with_folders(override_config(read_compiled(file, "vertex"), ["train.devices=cpu:1"]))
        self.spec = without_custom_jobs(yaml.safe_load(file.read_text()))

    def command(self, step: str) -> list[str]:
        """Return the command of a step in the compiled file, with the input that Vertex AI fills in."""
        return filled_command(self.spec, self.config, step, f"{BUCKET}/root", f"gs:/{BUCKET.removeprefix('/gcs')}/root")

    def start(self, command: list[str], mode: str = "rw") -> Any:
        """Start a command as the first process of a container, whose root is read-only; `mode` is that of the bucket."""
        volumes = {str(self.bucket): {"bind": BUCKET, "mode": mode}}
        settings = container_settings(network=False)
        return self.client.containers.run(self.image, command, detach=True, volumes=volumes, labels=LABELS, **settings)

    def run(self, step: str, mode: str = "rw") -> tuple[int, str]:
        """Run a step to its end; return its exit code and output."""
        container = self.start(self.command(step), mode)
        try:
            return int(container.wait(timeout=300)["StatusCode"]), container.logs().decode()
        finally:
            container.remove(force=True)


def filled_command(spec: dict[str, Any], config: RunConfig, step: str, folder: str, uri: str) -> list[str]:
    """Return the command of a step in a compiled file, with the input that a platform fills in.

    `config` has the sections that the first step would give. Outputs go below `folder`, which is known to KFP as `uri`.
    """
    component = spec["components"][f"comp-{step}"]
    tasks = {**spec["root"]["dag"]["tasks"], **spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]}
    known = {name: each.get("defaultValue") for name, each in spec["root"]["inputDefinitions"]["parameters"].items()}
    constants = {name: each.get("runtimeValue", {}) for name, each in tasks[step]["inputs"]["parameters"].items()}
    known |= {name: each.get("constant") for name, each in constants.items() if each or name not in known}
    section = config.sections().get(step)
    known |= {"config": section.model_dump_json() if section else "", "key": step, "job_id": "job-1"}

    def artifact(name: str) -> dict[str, Any]:
        return {"artifacts": [{"name": name, "uri": f"{uri}/{name}", "type": {"schemaTitle": "system.Artifact"}}]}

    inputs, outputs = component["inputDefinitions"], component["outputDefinitions"]
    filled = {
        "inputs": {
            "parameterValues": {name: known.get(name, "") for name in inputs["parameters"]},
            "artifacts": {name: artifact(name) for name in inputs.get("artifacts", {})},
        },
        "outputs": {
            "parameters": {name: {"outputFile": f"{folder}/{name}"} for name in outputs.get("parameters", {})},
            "artifacts": {name: artifact(name) for name in outputs.get("artifacts", {})},
            "outputFile": f"{folder}/{step}.json",
        },
    }
    container = spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
    return [*container["command"], *(word.replace("{{$}}", json.dumps(filled)) for word in container["args"])]
