"""What the report shows of the training: its curves, and samples of the same latents as rounds went by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.report.artifact_reader import Opened, UnfinishedTraining
from components.report.plots.curves import SCORE_PLOTS, Chart, draw_charts, mark_best
from components.report.plots.figures import Figure, figure

MAX_SAMPLES_OVER_TIME = 6


@dataclass(frozen=True)
class Training:
    """The section on the training; `unfinished` says where its content comes from when the step made no model."""

    charts: tuple[Chart, ...]
    over_time: tuple[Figure, ...]
    real: Figure | None
    unfinished: str
    notes: tuple[str, ...]


def describe_training(model: Opened) -> Training:
    """Return the section from a model artifact, or from the last checkpoint of a training that did not finish."""
    if model.manifest is None:
        return Training((), (), None, "", tuple(model.notes))
    charts = model.attempt("The training curves", lambda: _charts(model)) or ()
    over_time = tuple(shown for name in pick_rounds(model.names("samples/round-", ".png")) if (shown := _samples(model, name)))
    real = "samples/real.png" in model.names("samples/", ".png") and show_image(
        model, "samples/real.png", "Grid of real training images", "Real images, from the training set."
    )
    unfinished = ""
    if isinstance(model, UnfinishedTraining):
        rounds = model.manifest.counts.get("round", 0)
        unfinished = f"Training did not finish; this is what its last checkpoint, of round {rounds:,}, has kept."
    return Training(charts, over_time, real or None, unfinished, tuple(model.notes))


def _charts(model: Opened) -> tuple[Chart, ...]:
    resumed = int(model.summary.get("resumed_from_round") or 0)
    scores = score_lines(model)
    judged = draw_charts(scores, resumed, SCORE_PLOTS)
    marked = tuple(mark_best(chart, scores, "kid", model.summary.get("exported_round")) for chart in judged)
    return marked + draw_charts(model.lines("metrics.jsonl"), resumed)


def score_lines(model: Opened) -> list[dict[str, Any]]:
    """Return the lines of scores.jsonl, none where the training was not scored. Raises as Opened.lines."""
    return model.lines("scores.jsonl") if model.names("scores", ".jsonl") else []


def pick_rounds(names: Sequence[str], most: int = MAX_SAMPLES_OVER_TIME) -> list[str]:
    """Return at most `most` of the names, evenly spread, the first and the last always among them."""
    if len(names) <= most:
        return list(names)
    return [names[round(index * (len(names) - 1) / (most - 1))] for index in range(most)]


def _samples(model: Opened, name: str) -> Figure | None:
    found = re.search(r"round-(\d+)", name)
    round_number = f"{int(found[1]):,}" if found else name
    return show_image(model, name, f"Grid of samples after round {round_number}", f"Round {round_number}")


def show_image(artifact: Opened, name: str, alt: str, caption: str) -> Figure | None:
    """Return an image file of an artifact as a figure, or None and a note."""
    return artifact.attempt(f"The image {name}", lambda: figure(artifact.content(name), alt, caption))
