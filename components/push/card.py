"""The model card of a version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from components.artifacts import Manifest

TEMPLATE = "model_card.md.j2"


def model_card(version: str, model: Manifest, evaluation: Manifest, scores: dict[str, Any], reason: str) -> str:
    """Return the card as Markdown: data, training, scores and what they compare with, limits, decision, use."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,  # a card with a silent hole would be worse than none
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    return environment.get_template(TEMPLATE).render(
        version=version,
        model=model,
        size="×".join(str(model.details[name]) for name in ("image_size", "image_size", "channels")),
        dataset=evaluation.details["dataset"],
        scores=scores,
        provenance=scores["provenance"],
        reason=reason,
    )
