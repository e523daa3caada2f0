"""The model card, as Markdown and as HTML."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from components.common.artifacts import read_manifest
from components.evaluate.metrics import table
from components.evaluate.metrics.metric import Metric
from components.push.card import model_cards
from tests.support.datasets.tiny_artifacts import LATENTS
from tests.support.push_bench import SCORES, Bench


def cards(bench: Bench, **scores: object) -> tuple[str, str]:
    """Publish a model with these scores; return its card as Markdown and as HTML."""
    folder = Path(bench.push(bench.candidate(**scores)).uri)
    return (folder / "model_card.md").read_text(), (folder / "model_card.html").read_text()


def test_it_has_data_training_scores_limits_and_use(bench: Bench) -> None:
    card, _ = cards(bench)
    for text in (
        "# Generator v0001",
        "Source: `digits`",
        "900 for training, 300 held out",
        f"| `train.latents` | `{LATENTS}` |",
        "| KID | 0.0600 ± 0.0060 | lower is better |",
        "| Classes reached | 10 of 10 | all is best |",
        "labels 98.0 % of the held-out images correctly",
        "only with numbers of the same extractor",
        "First model of this registry",
        "wgan-pipeline generate",
        'tf.saved_model.load("v0001/saved_model")',
    ):
        assert text in card
    assert "{{" not in card
    assert "None" not in card


def test_the_page_has_the_same_sections_and_is_self_contained(bench: Bench) -> None:
    card, page = cards(bench)
    for heading in ("Model details", "Model parameters", "Quantitative analysis", "Considerations"):
        assert f"<h2>{heading}</h2>" in page
        assert f"## {heading}\n" in card
    assert f'src="data:image/png;base64,{base64.b64encode(b"a grid").decode()}"' in page
    assert '<th scope="row">KID</th><td>0.0600 ± 0.0060</td><td>lower is better</td>' in page
    assert "http" not in page
    assert "None" not in page


def test_a_metric_of_the_table_is_in_both(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    added = Metric(
        name="symmetry", title="Symmetry", better="higher", best=1.0, range="0 to 1", reading="1 is best", meaning="",
        source="", shown=frozenset({"card"}), measure=lambda _: {}, decimals=2,
    )  # fmt: skip
    monkeypatch.setattr(table, "METRICS", (*table.METRICS, added))
    card, page = cards(bench, symmetry=0.5)
    assert "| Symmetry | 0.50 | 1 is best |" in card
    assert '<th scope="row">Symmetry</th><td>0.50</td><td>1 is best</td>' in page


def test_names_are_escaped_in_the_page(bench: Bench) -> None:
    inputs = bench.candidate()
    evaluation = read_manifest(inputs["evaluation"])
    hostile = evaluation.details["dataset"] | {"label_names": ["<script>alert(1)</script>"], "source": "images:<b>"}
    named = evaluation.model_copy(update={"details": {"dataset": hostile}})
    page = model_cards("v0001", read_manifest(inputs["model"]), named, SCORES, "<i>", b"")["model_card.html"]
    assert "&lt;script&gt;" in page
    for markup in ("<script>", "<b>", "<i>"):
        assert markup not in page


def test_data_without_labels(bench: Bench) -> None:
    extractor = {"kind": "savedmodel", "digest": "ab" * 32, "accuracy": None, "told_apart": None, "features": 64}
    provenance = SCORES["provenance"] | {"extractor": extractor}  # type: ignore[operator]
    card, _ = cards(bench, modes=None, provenance=provenance)
    assert "The 64 features are those of another network (savedmodel)." in card
    assert "Classes reached" not in card
