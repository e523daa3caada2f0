"""Writes a version into the registry, after a load test of its SavedModel without this program's code."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from components.common.artifacts import Manifest, json_bytes, new_artifact
from components.common.errors import ArtifactError
from components.common.progress import say
from components.gate.candidate import Candidate
from components.generator.generator import ENVIRONMENT, SAVED_MODEL, find_saved_model, last_line
from components.push.card import model_cards
from components.push.config import PushConfig
from components.registry.registry import SAMPLES_FILE, SCORES_FILE, Registry

DETAILS = ("image_size", "channels", "latents", "classes")
STATE = "state.npz"  # as in components.train.saving.warm_start
LOAD_TEST = Path(__file__).with_name("load_test.py")


def write_version(config: PushConfig, registry: Registry, candidate: Candidate, reason: str) -> tuple[str, Manifest]:
    """Write the next version; return its name and manifest.

    The SavedModel is copied to a temporary folder and tested there; only then is the version written. Raises ArtifactError when
    the test fails or the registry cannot be written, ConflictError when another push took the number.
    """
    version = registry.next_version()
    model, inputs = candidate.model, candidate.inputs
    with tempfile.TemporaryDirectory(prefix="version-") as temporary:
        folder = Path(temporary) / version
        with new_artifact(folder, "version", config=config, inputs=inputs) as writer:
            writer.copy(find_saved_model(inputs["model"]), SAVED_MODEL)
            say(f"testing {version} in a new process, without this program's code")
            check_loads(writer.path / SAVED_MODEL, model)
            writer.write(SCORES_FILE, json_bytes(candidate.scores))
            samples = (inputs["evaluation"] / SAMPLES_FILE).read_bytes()
            writer.write(SAMPLES_FILE, samples)
            for name, card in model_cards(version, model, candidate.evaluation, candidate.scores, reason, samples).items():
                writer.write(name, card.encode())
            writer.details = {name: model.details[name] for name in DETAILS if name in model.details}
            if (inputs["model"] / STATE).is_file():  # for a training that starts from this version
                writer.copy(inputs["model"] / STATE)
                writer.details["train"] = model.config
        return version, registry.add_version(version, folder)


def check_loads(saved_model: Path, model: Manifest) -> None:
    """Run the load test on a SavedModel in a new process that cannot import our code. Raises ArtifactError."""
    sizes = [str(model.details[name]) for name in ("image_size", "channels", "latents")]
    command = [sys.executable, "-I", str(LOAD_TEST), str(saved_model), *sizes]
    environment = {**os.environ, **ENVIRONMENT}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ArtifactError(f"The model failed the load test and was not published: {last_line(result)}", "Run train again.")
