"""The model that the gate judges, with its evaluation and the validation of its data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from components.common.artifacts import Manifest, read_manifest
from components.common.errors import ArtifactError, first_line
from components.registry.registry import SCORES_FILE


@dataclass(frozen=True)
class Candidate:
    """The folders and the manifests of the three artifacts by name: model, evaluation, validation."""

    inputs: dict[str, Path]
    manifests: dict[str, Manifest]

    @property
    def model(self) -> Manifest:
        """The manifest of the model."""
        return self.manifests["model"]

    @property
    def evaluation(self) -> Manifest:
        """The manifest of the evaluation."""
        return self.manifests["evaluation"]

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each artifact."""
        return {name: manifest.digest for name, manifest in self.manifests.items()}

    @cached_property
    def scores(self) -> dict[str, Any]:
        """The content of scores.json of the evaluation."""
        scores: dict[str, Any] = json.loads((self.inputs["evaluation"] / SCORES_FILE).read_bytes())
        return scores

    def data_errors(self) -> list[str]:
        """Return the anomalies that make the data unfit for training; none if the validation says why they were accepted.

        Raises ArtifactError when the files of the validation cannot be read.
        """
        folder = self.inputs["validation"]
        if not (folder / "anomalies.json").exists():
            return []
        try:
            anomalies = json.loads((folder / "anomalies.json").read_bytes())
            accepted = json.loads((folder / "comparison.json").read_bytes())["why"]
            errors = [str(anomaly["text"]).rstrip(".") for anomaly in anomalies if anomaly["severity"] == "error"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"anomalies.json or comparison.json in {folder} cannot be read: {first_line(error)}."
            raise ArtifactError(problem, "Run validate again.") from error
        return [] if accepted else errors


def read_candidate(model: Path, evaluation: Path, validation: Path, *, verify_model: bool = True) -> Candidate:
    """Read and check the three artifacts; without `verify_model`, only the manifest of the model.

    Raises ArtifactError when one is damaged or they do not belong together.
    """
    inputs = {"model": model, "evaluation": evaluation, "validation": validation}
    manifests = {name: read_manifest(path, name, verify=verify_model or name != "model") for name, path in inputs.items()}
    evaluated = manifests["evaluation"].inputs
    if evaluated["model"] != manifests["model"].digest:
        raise ArtifactError("The evaluation is of another model.", "Run evaluate on this model.")
    if evaluated["dataset"] not in manifests["validation"].inputs.values():
        raise ArtifactError("The validation is of another dataset than the evaluation.", "Run validate on the model's dataset.")
    return Candidate(inputs, manifests)
