"""Scores the champion again with the extractor, real images and settings of the candidate's evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from components.common.errors import ArtifactError, first_line
from components.evaluate import run as evaluate
from components.evaluate.features.extractor import Floats32
from components.evaluate.provenance import comparable
from components.evaluate.scores import SAMPLE_FEATURES_FILE, load_reference
from components.gate.candidate import Candidate
from components.gate.checks import RescoredChampion
from components.gate.evidence import compare


def rescore_champion(candidate: Candidate, version: str, folder: Path) -> RescoredChampion:
    """Return the scores of the champion, whose files are in `folder`, and the evidence that the candidate is better.

    Raises ArtifactError when another release of this program made the evaluation, or its files are damaged.
    """
    evaluation = candidate.inputs["evaluation"]
    scores, features = rescored(evaluation, folder)
    if differs := comparable(candidate.scores["provenance"], scores["provenance"]):
        raise ArtifactError(
            f"The evaluation was made by another release of this program: {', '.join(differs)} differ.", "Run evaluate again."
        )
    real = load_reference(evaluation, candidate.evaluation.counts["real"]).real
    try:
        evidence = compare(real, candidate_features(evaluation), features)
    except ValueError as error:
        raise ArtifactError(f"{evaluation} cannot be compared: {error}.", "Run evaluate again.") from error
    return RescoredChampion(version, scores, evidence)


def rescored(evaluation: Path, model: Path) -> tuple[dict[str, Any], Floats32]:
    """Return the scores of another model and the features of its samples [K, D]. Raises ArtifactError."""
    result = evaluate.rescore(evaluation, model)
    return result.summary.model_dump(mode="json"), result.features


def candidate_features(evaluation: Path) -> Floats32:
    """Return the features of the candidate's samples, [M, D]. Raises ArtifactError."""
    file = evaluation / SAMPLE_FEATURES_FILE
    try:
        features: Floats32 = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read: {first_line(error)}.", "Run evaluate again.") from error
    return features
