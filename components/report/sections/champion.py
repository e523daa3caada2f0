"""The champion beside the candidate: what the decision compared, and samples of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.report.artifact_reader import Opened
from components.report.formatting import number, signed
from components.report.plots.figures import Figure, figure
from components.report.sections.scores import MEANINGS

SAMPLES_FILE = "champion_samples.png"


@dataclass(frozen=True)
class Champion:
    """The section; rows are (score, candidate, champion, how to read it), empty where nothing can be compared."""

    version: str
    rows: tuple[tuple[str, str, str, str], ...]
    samples: Figure | None
    scores: Mapping[str, Any] | None
    notes: tuple[str, ...]


def describe_champion(push: Opened, candidate: Mapping[str, Any]) -> Champion | None:
    """Return the section from the push artifact and the candidate's scores; None where nothing is known of one.

    The scores are those that the decision rests on: the champion's by the candidate's own measure.
    """
    version = str(push.summary.get("champion") or "")
    if push.manifest is None or not version or version == push.summary.get("version"):
        return None
    scores = push.attempt("The champion's scores", lambda: push.manifest and push.manifest.details.get("champion_scores"))
    samples = None
    if SAMPLES_FILE in push.manifest.files:
        samples = push.attempt(f"Samples of {version}", lambda: _samples(push, version))
    rows = compared(candidate, scores or {})
    return Champion(version, rows, samples, scores or None, tuple(push.notes)) if rows or samples or push.notes else None


def compared(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> tuple[tuple[str, str, str, str], ...]:
    """Return the scores that both have as text."""
    return tuple(
        (name, _with_error(key, candidate), _with_error(key, champion), better)
        for key, name, better, _ in MEANINGS
        if None not in (candidate.get(key), champion.get(key))
    )


def _with_error(key: str, scores: Mapping[str, Any]) -> str:
    if key == "kid" and scores.get("kid_std") is not None:
        return f"{signed(scores['kid'])} ± {scores['kid_std']:.4f}"
    return number(scores[key], 3)


def _samples(push: Opened, version: str) -> Figure:
    return figure(push.content(SAMPLES_FILE), f"Grid of samples of {version}", f"Samples of {version}, which was in service.")
