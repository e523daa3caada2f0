"""The scores of a model, their provenance, and the images behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.evaluate.metrics import table
from components.evaluate.useless import trust_sentence
from components.report.artifact_reader import ArtifactReader
from components.report.formatting import number, percent, plain
from components.report.plots.bars import Bars, to_bars
from components.report.plots.scale import list_scales

EXTRACTORS = {
    "trained": "a network trained on the training images",
    "inception": "InceptionV3",
    "inception-2015": "the Inception graph of 2015",
    "savedmodel": "an external SavedModel",
}
COMPARABLE = "Comparable only with scores of the same provenance, not with scores published elsewhere."
PUBLISHED = (
    "Comparable with a published FID only if the network, the preparation of the images and the number of samples are the same."
)
PICTURES = (  # file, heading, alternative text, caption
    (
        "neighbours.png",
        "",
        "Rows of one sample and the training images nearest to it",
        "Each row: one sample, then the training images nearest to it. Similar images are good; an identical image means that "
        "the model memorized it.",
    ),
    (
        "worst_pairs.png",
        "Nearest pairs",
        "Pairs of a sample and the training image nearest to it, the nearest pairs first",
        "The samples nearest to a training image, four pairs in a row: the sample on the left, the training image on the right."
        " An identical pair means that the model memorized it.",
    ),
    (
        "farthest_pairs.png",
        "Farthest pairs",
        "Pairs of a sample and the training image nearest to it, the farthest pairs first",
        "The samples farthest from all training images, beside the nearest one: these look least real to the extractor.",
    ),
)


@dataclass(frozen=True)
class Score:
    """One score as text, its standard error if it has one, and how to read it."""

    name: str
    value: str
    error: str
    reading: str
    meaning: str


class ScoresSection:
    """The section; an attribute is empty if its content could not be read, and `notes` say why."""

    def __init__(
        self, evaluation: ArtifactReader, champion: Mapping[str, Any] | None = None, comparable: str = COMPARABLE
    ) -> None:
        self.notes = evaluation.notes
        self.scores, self.comparable = list_scores(evaluation.summary), comparable
        self.provenance = provenance_rows(evaluation.summary.get("provenance") or {})
        self.summary = evaluation.attempt("The provenance", lambda: how_measured(evaluation.summary), "", recorded=True)
        content = evaluation.attempt("scores.json", lambda: dict(evaluation.json("scores.json")), {})
        self.scales = evaluation.attempt("The scales of the scores", lambda: list_scales(content, champion), ())
        self.classes, self.classes_summary = evaluation.attempt(
            "The classes of the samples", lambda: class_bars(content.get("modes")), (Bars(), "")
        )
        pictures = ((heading, evaluation.figure(name, *texts)) for name, heading, *texts in PICTURES)
        self.pictures = [(heading, picture) for heading, picture in pictures if picture]


def class_bars(modes: Mapping[str, Any] | None) -> tuple[Bars, str]:
    """Return the share of each class in the samples, and how many classes are covered in words."""
    if not modes:
        return Bars(), ""
    covered = f"{modes['covered']} of {modes['of']} classes are covered"
    text = f"{covered}: each has at least a tenth of its share of the real images."
    return to_bars(list(modes["shares"].items()), lambda share: percent(share, 1)), text


def list_scores(scores: Mapping[str, Any]) -> tuple[Score, ...]:
    """Return the scores of an evaluate summary that the report shows."""
    shown = []
    for metric in table.metrics_on("report"):
        value, _, error = metric.text(scores).partition(" ± ")
        p_value = scores.get(metric.p_value)
        meaning = metric.meaning if p_value is None else f"{metric.meaning} {p_value_text(p_value)}."
        if value:
            shown.append(Score(metric.title, value, error, metric.reading, meaning))
    return tuple(shown)


def scores_markdown(scores: Mapping[str, Any]) -> str:
    """Return the scores of an evaluate summary as a Markdown table, and how they were measured."""
    rows = []
    for score in list_scores(scores):
        value = f"{score.value} ± {score.error}" if score.error else score.value
        rows.append(f"| {score.name} | {value} | {score.reading} | {score.meaning} |")
    table_head = ["| Score | Value | How to read it | What it is |", "|---|---|---|---|"]
    measured = how_measured(scores)
    return "\n".join(["# Scores", "", *table_head, *rows, "", measured, "", COMPARABLE, ""])


def p_value_text(p_value: float) -> str:
    """Return a p-value with three decimals, or that it is smaller."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def how_measured(scores: Mapping[str, Any]) -> str:
    """Return how scores were measured, and how far their features can be trusted."""
    return " ".join(filter(None, [provenance_sentence(scores.get("provenance") or {}), trust_sentence(scores)]))


def provenance_sentence(provenance: Mapping[str, Any]) -> str:
    """Return how the scores were measured; empty without a provenance."""
    if not provenance:
        return ""
    extractor, real = provenance["extractor"], provenance["real"]
    accuracy = extractor.get("accuracy")
    apart, correct = extractor.get("told_apart"), ""
    if apart is not None:
        correct += f", which tells held-out images from damaged ones in {percent(apart, 1)} of cases"
    if accuracy is not None:
        correct += f", and labels {percent(accuracy, 1)} of them correctly"
    against = real["split"]
    if "count" in real:
        held_out = f"{number(real['held_out'])} held-out images for memorization"
        against = f"{number(real['count'])} {real['split']} images; {held_out}"
    weights = "EMA weights" if provenance["weights"] == "ema" else provenance["weights"]
    return (
        f"Features of {EXTRACTORS.get(extractor['kind'], extractor['kind'])}{correct} (digest {extractor['digest'][:12]}), "
        f"resize {provenance['resize']}. {number(provenance['samples'])} samples (seed {provenance['seed']}, "
        f"{weights}) against {against}."
    )


def provenance_rows(provenance: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Return every key of a provenance as (name, text); digests are cut to twelve digits."""
    rows: list[tuple[str, str]] = []
    for key, value in provenance.items():
        name = f"{prefix}{key}".replace("_", " ")
        rows += provenance_rows(value, f"{name} ") if isinstance(value, Mapping) else [(name, _short(value))]
    return tuple(rows)


def _short(value: Any) -> str:
    text = number(value) if isinstance(value, int | float) and not isinstance(value, bool) else plain(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text
