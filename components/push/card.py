"""The model card of a version: the fields of the Model Card Toolkit (Mitchell et al. 2019), as Markdown and as HTML."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2

from components.common.artifacts import Manifest

MARKDOWN, HTML = "model_card.md.j2", "model_card.html.j2"


def model_card(version: str, model: Manifest, evaluation: Manifest, scores: dict[str, Any], reason: str) -> str:
    """Return the card as Markdown: data, training, scores and what they compare with, limits, decision, use."""
    return _render(MARKDOWN, **_content(version, model, evaluation, scores, reason))


def model_card_html(
    version: str, model: Manifest, evaluation: Manifest, scores: dict[str, Any], reason: str, samples: bytes
) -> str:
    """Return the card as one HTML page that needs nothing else; `samples` is the PNG of the grid."""
    content = _content(version, model, evaluation, scores, reason)
    return _render(HTML, **content, samples=base64.b64encode(samples).decode())


def _content(version: str, model: Manifest, evaluation: Manifest, scores: dict[str, Any], reason: str) -> dict[str, Any]:
    return {
        "version": version,
        "model": model,
        "size": "×".join(str(model.details[name]) for name in ("image_size", "image_size", "channels")),
        "dataset": evaluation.details["dataset"],
        "scores": scores,
        "rows": score_rows(scores),
        "provenance": scores["provenance"],
        "reason": reason,
    }


def score_rows(scores: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and best value of each score as text."""
    rows = [
        ("KID", f"{scores['kid']:.5f} ± {scores['kid_std']:.5f}", "0"),
        ("FID", f"{scores['fid']:.3f}", "0"),
        ("Precision", f"{scores['precision']:.3f}", "1"),
        ("Recall", f"{scores['recall']:.3f}", "1"),
        ("Density", f"{scores['density']:.3f}", "1 or more"),
        ("Coverage", f"{scores['coverage']:.3f}", "1"),
        ("Memorization", f"{scores['memorization']:.3f}", "0.01"),
    ]
    for key, name, best in (
        ("memorization_nearer", "Nearer to training images than held-out ones", "0.5"),
        ("class_score", "Class score", "the number of classes"),
        ("sharpness_ratio", "Sharpness by that of real images", "1"),
        ("colour_distance", "Colour distance, in real deviations", "0"),
    ):
        if scores.get(key) is not None:
            rows.append((name, f"{scores[key]:.3f}", best))
    if modes := scores.get("modes"):
        rows.append(("Classes reached", f"{modes['covered']} of {modes['of']}", str(modes["of"])))
    return rows


def _render(template: str, **content: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,  # a card with a silent hole would be worse than none
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=template == HTML,  # Markdown has no escape that would not show
    )
    return environment.get_template(template).render(**content)
