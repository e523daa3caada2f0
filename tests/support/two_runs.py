"""Two runs of one config compared: what they made, file by file, and their summaries less times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

CONFIG = """
[ingest]
image_size = 8
[train]
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


def made_in(steps: Path) -> dict[str, dict[str, Any]]:
    """What each step made in `steps`, KFP's pipeline root, file by file.

    A file's digest, or what it holds where it also holds times or the zip of one Python. push's artifact says where its
    registry is, so it is another one.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in steps.glob("*/*/*/manifest.json"):
        manifest = json.loads(file.read_bytes())
        if manifest["kind"] != "push":
            names = [name for name in manifest["files"] if not name.startswith(OF_ITS_TIME)]
            found[manifest["kind"]] = {name: content(file.parent / name) or manifest["files"][name] for name in names}
    return found


OF_ITS_TIME = ("tensorboard/", "saved_model/fingerprint.pb")


def content(file: Path) -> Any:
    """What a file holds, where its bytes may differ; else nothing."""
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return {name: (arrays[name].dtype, arrays[name].shape, arrays[name].tobytes()) for name in arrays}
    if file.name == "metrics.jsonl":
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    return None


def without_times(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A summary less what may differ: times, speeds, the run's name and folder."""
    text = json.dumps(summary).replace(str(folder), "")
    found: dict[str, Any] = json.loads(text)
    for step in found["steps"].values():
        del step["seconds"]
    for key in ("run_id", "started_at", "finished_at", "seconds", "artifacts"):  # what these hold is compared file by file
        found.pop(key, None)
    found["train"].pop("critic_images_per_second")
    return found
