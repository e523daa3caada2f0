"""The candidate beside the champion: the scores that the decision compared, and samples of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.evaluate.metrics import table
from components.report.artifact_reader import ArtifactReader

SAMPLES_FILE = "champion_samples.png"


class ChampionSection:
    """The section; empty if there is no champion other than the candidate itself.

    The champion's scores are those of the decision, measured in the same way as the candidate's.
    """

    def __init__(self, push: ArtifactReader, candidate: Mapping[str, Any]) -> None:
        self.version = str(push.summary.get("champion") or "")
        self.scores: Mapping[str, Any] = {}
        self.rows: tuple[tuple[str, str, str, str], ...] = ()
        self.samples = None
        if push.manifest is None or not self.version or self.version == push.summary.get("version"):
            return
        self.scores = push.manifest.details.get("champion_scores") or {}
        self.rows = push.attempt("The scores of the champion", lambda: compared_scores(candidate, self.scores), ())
        if SAMPLES_FILE in push.manifest.files:
            caption = f"Samples of the champion {self.version}."
            self.samples = push.figure(SAMPLES_FILE, f"Grid of samples of {self.version}", caption)


def compared_scores(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> tuple[tuple[str, str, str, str], ...]:
    """Return (score, candidate, champion, how to read it) of each metric that both have."""
    metrics = table.metrics_on("report")
    rows = ((metric.title, metric.text(candidate), metric.text(champion), metric.reading) for metric in metrics)
    return tuple(row for row in rows if row[1] and row[2])
