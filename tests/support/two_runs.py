"""Compares two runs of one config: the files of their artifacts, and their summaries without times."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CONFIG = """
[ingest]
image_size = 8
[train]
precision = "float32"
rounds = 40
rounds_per_call = 10
checkpoint_every_rounds = 10
global_batch_size = 32
generator_channels = 4
critic_channels = 4
[evaluate]
samples = 300
real_images = 500
kid_subsets = 4
kid_subset_size = 100
"""

# For the processes of both runs. Containers do not have these variables, and the last bits of matrix products depend on them.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS_", "OMP_"))}


class Results(NamedTuple):
    """What a run produced."""

    summary: dict[str, Any]
    artifacts: dict[str, dict[str, Any]]


def results_of(runs: Path) -> Results:
    """Return the results of the last local run in a folder of runs."""
    folder = (runs / "latest").resolve()
    return Results(without_times(json.loads((folder / "summary.json").read_bytes()), runs), made_in(folder / "steps"))


def made_in(steps: Path) -> dict[str, dict[str, Any]]:
    """Return the artifact of each step below `steps`, KFP's pipeline root, as a mapping of file name to digest.

    Files that also hold times, or whose bytes depend on the Python version, are given by their content. The artifacts of
    gate and push are left out: they name their registry and the digests of other artifacts, which differ from run to run.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in steps.glob("*/*/*/manifest.json"):
        manifest = json.loads(file.read_bytes())
        if manifest["kind"] not in ("verdict", "push"):
            names = [name for name in manifest["files"] if not name.startswith(DEPENDS_ON_TIME)]
            found[manifest["kind"]] = {name: content(file.parent / name) or manifest["files"][name] for name in names}
    return found


DEPENDS_ON_TIME = ("tensorboard/", "saved_model/fingerprint.pb")


def content(file: Path) -> Any:
    """Return the content of a file whose bytes may differ from run to run; None for other files."""
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return {name: (arrays[name].dtype, arrays[name].shape, arrays[name].tobytes()) for name in arrays}
    if file.name == "metrics.jsonl":
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    return None


def without_times(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a summary without what may differ between runs: times, speeds, name and folder of the run."""
    text = json.dumps(summary).replace(str(folder), "")
    found: dict[str, Any] = json.loads(text)
    for step in found["steps"].values():
        del step["seconds"]
    for key in ("run_id", "started_at", "finished_at", "seconds", "artifacts"):  # artifacts are compared file by file
        found.pop(key, None)
    found["train"].pop("critic_images_per_second")
    return found
