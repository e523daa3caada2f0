"""The curves of the training, and samples of the same latents as training proceeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.report.artifact_reader import ArtifactReader, CheckpointReader, open_finished
from components.report.plots.chart import Chart
from components.report.plots.curves import KID_PLOT, PLOTS, draw_curves, mark_best
from components.report.plots.figures import Figure
from components.report.rendering import render_sections
from components.report.sections.samples import SamplesSection

MAX_SAMPLES_OVER_TIME = 6


class TrainingSection:
    """The section of a model, or of the last checkpoint of a training that did not finish, which `unfinished` names."""

    def __init__(self, model: ArtifactReader) -> None:
        self.notes = model.notes
        self.charts = model.attempt("The training curves", lambda: _charts(model), ())
        names = pick_evenly(model.names("samples/round-", ".png"))
        self.over_time = [samples for name in names if (samples := _samples(model, name))]
        self.unfinished = ""
        if isinstance(model, CheckpointReader) and model.manifest is not None:
            rounds = model.manifest.counts.get("round", 0)
            self.unfinished = f"Training did not finish. This is its last checkpoint, of round {rounds:,}."


def training_page(model: Path, summary: Mapping[str, Any]) -> str:
    """Return samples and curves of a model artifact as one HTML document."""
    reader, none = open_finished("model", model, summary), ArtifactReader("", None)
    training = TrainingSection(reader)
    last_round = training.over_time[-1] if training.over_time else None
    samples = SamplesSection(none, reader, none, last_round, seed="")
    return render_sections("Samples and curves of the training", samples=samples, training=training)


def _charts(model: ArtifactReader) -> tuple[Chart, ...]:
    resumed = int(model.summary.get("resumed_from_round") or 0)
    return training_charts(model.lines("metrics.jsonl"), score_lines(model), resumed, model.summary.get("exported_round"))


def training_charts(
    metrics: Sequence[dict[str, Any]], scores: Sequence[dict[str, Any]], resumed: int = 0, exported_round: int | None = None
) -> tuple[Chart, ...]:
    """Return the curves of the lines of metrics.jsonl and scores.jsonl. Raises ValueError for values that are not numbers."""
    kid = draw_curves([KID_PLOT], scores, resumed_from_round=resumed)
    marked = tuple(mark_best(chart, scores, KID_PLOT.column, exported_round) for chart in kid)
    return marked + draw_curves(PLOTS, metrics, resumed_from_round=resumed)


def score_lines(model: ArtifactReader) -> list[dict[str, Any]]:
    """Return the lines of scores.jsonl, none if the training was not scored. Raises as ArtifactReader.lines."""
    return model.lines("scores.jsonl") if model.names("scores", ".jsonl") else []


def pick_evenly(names: Sequence[str]) -> list[str]:
    """Return at most MAX_SAMPLES_OVER_TIME of the names, evenly spread, always with the first and the last."""
    if len(names) <= MAX_SAMPLES_OVER_TIME:
        return list(names)
    steps = MAX_SAMPLES_OVER_TIME - 1
    return [names[round(index * (len(names) - 1) / steps)] for index in range(MAX_SAMPLES_OVER_TIME)]


def _samples(model: ArtifactReader, name: str) -> Figure | None:
    match = re.search(r"round-(\d+)", name)
    round_number = f"{int(match[1]):,}" if match else name
    return model.figure(name, f"Grid of samples after round {round_number}", f"Round {round_number}")
