"""The model card of a version: the sections of the Model Card Toolkit (Mitchell et al. 2019), as Markdown and as HTML."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2

from components.common.artifacts import Manifest
from components.evaluate.metrics import table

MARKDOWN, HTML = "model_card.md.j2", "model_card.html.j2"


def model_card(version: str, model: Manifest, evaluation: Manifest, scores: dict[str, Any], reason: str) -> str:
    """Return the card as Markdown: data, training, scores, limits, the reason of the decision, use."""
    return _render(MARKDOWN, version, model, evaluation, scores, reason)


def model_card_html(
    version: str, model: Manifest, evaluation: Manifest, scores: dict[str, Any], reason: str, samples: bytes
) -> str:
    """Return the card as one self-contained HTML page; `samples` is the PNG of the grid of samples."""
    return _render(HTML, version, model, evaluation, scores, reason, samples=base64.b64encode(samples).decode())


def score_rows(scores: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return title, value and reading of every metric of the page "card" that has a value."""
    rows = [(metric.title, metric.text(scores), metric.reading) for metric in table.metrics_on("card")]
    if modes := scores.get("modes"):
        rows.append(("Classes reached", f"{modes['covered']} of {modes['of']}", "all is best"))
    return [row for row in rows if row[1]]


def _render(
    template: str,
    version: str,
    model: Manifest,
    evaluation: Manifest,
    scores: dict[str, Any],
    reason: str,
    **more: str,
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,  # a missing value is an error, not an empty place in the card
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=template == HTML,  # escapes would show in Markdown
    )
    return environment.get_template(template).render(
        version=version,
        model=model,
        size="×".join(str(model.details[name]) for name in ("image_size", "image_size", "channels")),
        dataset=evaluation.details["dataset"],
        rows=score_rows(scores),
        provenance=scores["provenance"],
        reason=reason,
        **more,
    )
