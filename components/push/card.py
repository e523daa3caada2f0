"""The model card of a version: the sections of the Model Card Toolkit (Mitchell et al. 2019), as Markdown and as HTML."""

from __future__ import annotations

import base64
import functools
from pathlib import Path
from typing import Any

import jinja2

from components.common.artifacts import Manifest
from components.evaluate.metrics import table
from components.evaluate.useless import trust_sentence


def model_cards(
    version: str, model: Manifest, evaluation: Manifest, scores: dict[str, Any], reason: str, samples: bytes
) -> dict[str, str]:
    """Return the card as Markdown and as one self-contained HTML page, by file name; `samples` is the PNG of the grid."""
    content = {
        "version": version,
        "model": model,
        "size": "×".join(str(model.details[name]) for name in ("image_size", "image_size", "channels")),
        "dataset": evaluation.details["dataset"],
        "rows": score_rows(scores),
        "provenance": scores["provenance"],
        "trust": trust_sentence(scores),
        "reason": reason,
        "samples": base64.b64encode(samples).decode(),
    }
    names = ("model_card.md", "model_card.html")
    return {name: _environment().get_template(f"{name}.j2").render(content) for name in names}


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,  # a missing value is an error, not an empty place in the card
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=jinja2.select_autoescape(["html.j2"]),  # escapes would show in Markdown
    )


def score_rows(scores: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return title, value and reading of every metric of the page "card" that has a value."""
    rows = [(metric.title, metric.text(scores), metric.reading) for metric in table.metrics_on("card")]
    if modes := scores.get("modes"):
        rows.append(("Classes reached", f"{modes['covered']} of {modes['of']}", "all is best"))
    return [row for row in rows if row[1]]
