"""The scores of a model and, in words, what they were measured with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.report.artifact_reader import Opened
from components.report.formatting import number, percent, plain, signed
from components.report.plots.bars import Bars, to_bars
from components.report.plots.figures import Figure
from components.report.sections.training import show_image

NEIGHBOURS_ALT = "Rows of one sample and the training images nearest to it"
NEIGHBOURS_CAPTION = (
    "Each row: one sample, then the training images nearest to it. Alike is good, the very same would be memorised."
)
WORST_PAIRS_ALT = "Pairs of a sample and the training image nearest to it, the nearest pairs of all first"
WORST_PAIRS_CAPTION = (
    "Of all samples those nearest to a training image, four pairs a row: the sample left, the training image right. "
    "The very same twice is memorised."
)


@dataclass(frozen=True)
class Score:
    """One score as text, with its standard error where it has one, and how to read it."""

    name: str
    value: str
    error: str
    better: str
    meaning: str


@dataclass(frozen=True)
class Evaluation:
    """The section on the scores; whatever could not be read is empty and has a sentence in `notes`."""

    scores: tuple[Score, ...]
    in_words: str
    provenance: tuple[tuple[str, str], ...]
    modes: Bars
    modes_in_words: str
    samples: Figure | None
    neighbours: Figure | None
    worst_pairs: Figure | None
    notes: tuple[str, ...]


MEANINGS = (
    ("fid", "FID", "lower is better", "Fréchet distance between the features of samples and of real images."),
    ("kid", "KID", "lower is better", "Kernel distance of the same features, unbiased; 0 for the same distribution."),
    ("precision", "Precision", "1 is best", "Share of samples that lie among real images: do they look real?"),
    ("recall", "Recall", "1 is best", "Share of real images that lie among samples: is everything covered?"),
    ("density", "Density", "1 or more", "How deep samples lie among real images; above 1 they crowd together."),
    ("coverage", "Coverage", "1 is best", "Share of real images with a sample near by."),
    (
        "memorization",
        "Memorization",
        "0.01 is honest",
        "Share of samples nearer to a training image than 99 % of held-out images are.",
    ),
    (
        "memorization_nearer",
        "Nearer than held-out",
        "0.5 is honest, above 0.9 copied",
        "Of a sample and a held-out image, how often the sample is nearer to the training images (Mann-Whitney).",
    ),
    ("class_score", "Class score", "more is better", "Classes seen in samples, each clearly; at most the number of classes."),
    ("classes_covered", "Classes reached", "all is best", "Classes with at least a tenth of their real share."),
    ("sharpness_ratio", "Sharpness", "1 is best", "Variance of the Laplacian by that of real images; below 1 is blurred."),
    ("colour_distance", "Colours", "0 is best", "Largest distance of brightness, contrast and saturation, in real deviations."),
)


def describe_evaluation(artifact: Opened) -> Evaluation:
    """Return the section from an evaluation artifact and the step's summary."""
    samples = neighbours = worst_pairs = modes = None
    if artifact.manifest is not None:
        samples = show_image(artifact, "samples.png", "Grid of final samples", "Samples of the finished model.")
        neighbours = show_image(artifact, "neighbours.png", NEIGHBOURS_ALT, NEIGHBOURS_CAPTION)
        if "worst_pairs.png" in artifact.manifest.files:  # evaluations of earlier versions have none
            worst_pairs = show_image(artifact, "worst_pairs.png", WORST_PAIRS_ALT, WORST_PAIRS_CAPTION)
        modes = artifact.attempt("Mode coverage", lambda: _modes(json.loads(artifact.content("scores.json"))))
    origin = artifact.summary.get("provenance") or {}
    return Evaluation(
        scores=list_scores(artifact.summary),
        in_words=artifact.attempt("The provenance", lambda: provenance_sentence(origin)) or "",
        provenance=provenance_rows(origin),
        modes=modes[0] if modes else Bars(),
        modes_in_words=modes[1] if modes else "",
        samples=samples,
        neighbours=neighbours,
        worst_pairs=worst_pairs,
        notes=tuple(artifact.notes),
    )


def _modes(scores: Mapping[str, Any]) -> tuple[Bars, str]:
    modes = scores.get("modes")
    if not modes:
        return Bars(), ""
    words = f"{modes['covered']} of {modes['of']} classes are covered: they have at least a tenth of their real share."
    return to_bars(list(modes["shares"].items()), lambda share: percent(share, 1)), words


def list_scores(evaluate: Mapping[str, Any]) -> tuple[Score, ...]:
    """Return the scores of an evaluate summary that are there."""
    scores = []
    for key, name, better, meaning in MEANINGS:
        if evaluate.get(key) is not None:
            value, error = number(evaluate[key], 3), ""
            if key == "kid" and evaluate.get("kid_std") is not None:
                value, error = signed(evaluate["kid"]), f"{evaluate['kid_std']:.4f}"  # the same digits for both
            if key == "memorization_nearer" and evaluate.get("memorization_p") is not None:
                meaning = f"{meaning} {p_value_text(evaluate['memorization_p'])}."
            scores.append(Score(name, value, error, better, meaning))
    return tuple(scores)


def p_value_text(p_value: float) -> str:
    """Return a p-value in words: three digits, or that it is smaller."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def provenance_sentence(provenance: Mapping[str, Any]) -> str:
    """Say what the scores were measured with; empty without a provenance. Raises KeyError for one of another shape."""
    if not provenance:
        return ""
    extractor, real = provenance["extractor"], provenance["real"]
    kinds = {
        "classifier": "a classifier trained on the labels",
        "random": "a random convolutional network",
        "inception": "InceptionV3",
        "savedmodel": "a given SavedModel",
    }
    accuracy = extractor.get("accuracy")
    right = f", right on {percent(accuracy, 1)} of held-out images" if accuracy is not None else ""
    return (
        f"Features of {kinds.get(extractor['kind'], extractor['kind'])}{right} (digest {extractor['digest'][:12]}), "
        f"resize {provenance['resize']}. {number(provenance['samples'])} samples (seed {provenance['seed']}, "
        f"{provenance['weights'].upper()} weights) against {number(real['count'])} {real['split']} images; "
        f"{number(real['held_out'])} held-out images for memorization."
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
