"""The candidate beside the champion: the scores that the decision compared, and samples of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.evaluate.metrics import table
from components.gate.verdict import CHAMPION_SAMPLES, VERDICT_FILE
from components.report.artifact_reader import ArtifactReader


class ChampionSection:
    """The section; empty if there is no champion other than the candidate itself.

    The champion's scores are those of the verdict that was carried out, measured in the same way as the candidate's: that of
    gate, or that of push if it had to judge again.
    """

    def __init__(self, gate: ArtifactReader, push: ArtifactReader, candidate: Mapping[str, Any]) -> None:
        source = push if VERDICT_FILE in push.names() else gate
        self.version = str(source.summary.get("champion") or "")
        self.scores: Mapping[str, Any] = {}
        self.rows: tuple[tuple[str, str, str, str], ...] = ()
        self.samples = None
        if not self.version or self.version == push.summary.get("version"):
            return
        what = "The scores of the champion"
        self.scores = source.attempt(what, lambda: source.json(VERDICT_FILE)["champion_scores"] or {}, {})
        self.rows = source.attempt(what, lambda: compared_scores(candidate, self.scores), ())
        if CHAMPION_SAMPLES in source.names():
            caption = f"Samples of the champion {self.version}."
            self.samples = source.figure(CHAMPION_SAMPLES, f"Grid of samples of {self.version}", caption)


def compared_scores(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> tuple[tuple[str, str, str, str], ...]:
    """Return (score, candidate, champion, how to read it) of each metric that both have."""
    metrics = table.metrics_on("report")
    rows = ((metric.title, metric.text(candidate), metric.text(champion), metric.reading) for metric in metrics)
    return tuple(row for row in rows if row[1] and row[2])
