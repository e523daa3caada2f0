"""The candidate and the champion by one measure: scores and features, both of now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError, first_line
from components.evaluate import run as evaluate
from components.evaluate.features.extractor import Floats32
from components.evaluate.provenance import comparable
from components.evaluate.scores import SAMPLE_FEATURES_FILE, load_reference
from components.push.gate.evidence import Evidence, compare


def measure_champion(inputs: dict[str, Path], provenance: dict[str, Any], champion: Path) -> tuple[dict[str, Any], Evidence]:
    """Return the champion's scores by the measure of the candidate's evaluation, and the evidence for the candidate.

    Raises ArtifactError when the evaluation was made by another program than this one, or its files are damaged.
    """
    evaluation = inputs["evaluation"]
    scores, features = rescored(evaluation, champion)
    if differs := comparable(provenance, scores["provenance"]):
        raise ArtifactError(
            f"The evaluation was made by another program than this one: {', '.join(differs)} differ.",
            "Run evaluate again.",
        )
    manifest = read_manifest(evaluation, "evaluation", verify=False)
    real = load_reference(evaluation, manifest.counts["real"]).real
    try:
        return scores, compare(real, candidate_features(evaluation), features)
    except ValueError as error:
        raise ArtifactError(f"{evaluation} cannot be compared: {error}.", "Run evaluate again.") from error


def rescored(evaluation: Path, model: Path) -> tuple[dict[str, Any], Floats32]:
    """Return scores and sample features of another model by the measure of `evaluation`. Raises ArtifactError."""
    found = evaluate.rescore(evaluation, model)
    return found.summary.model_dump(mode="json"), found.features


def candidate_features(evaluation: Path) -> Floats32:
    """Return the features of the samples that were scored, [M, D]. Raises ArtifactError."""
    file = evaluation / SAMPLE_FEATURES_FILE
    try:
        features: Floats32 = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read: {first_line(error)}.", "Run evaluate again.") from error
    return features
