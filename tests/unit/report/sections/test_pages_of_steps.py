"""Parts of the report that steps give to the platform: the same sections, as documents of their own."""

from __future__ import annotations

import pytest

from components.report.sections.scores import scores_markdown
from components.report.sections.training import training_page
from components.report.sections.validation import validation_page
from tests.support.report_runs import HOSTILE, SCORES, Run, parsed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that tests only read."""
    return Run(tmp_path_factory.mktemp("finished")).all()


def test_train_shows_samples_and_curves(finished: Run) -> None:
    page, sections = parsed(training_page(finished.out("train"), {"resumed_from_round": 100}))
    assert sections == ["samples", "training"]
    for words in ("Real images from the training split.", "Round 1,000", "Wasserstein gap", "resumed"):
        assert words in page.text, words
    assert sum(tag == "img" for tag, _ in page.elements) == 8  # the last samples, real images, six rounds
    assert sum(tag == "svg" for tag, _ in page.elements) == 6


def test_validate_shows_counts_labels_and_statistics(finished: Run) -> None:
    page, sections = parsed(validation_page(finished.out("ingest"), finished.out("validate")))
    assert sections[0] == "data"
    for words in ("1,797", "duplicate", "The first 64 training images", HOSTILE):
        assert words in page.text, words


def test_evaluate_shows_the_scores_of_the_report() -> None:
    text = scores_markdown(SCORES)
    assert "| KID | 0.0123 ± 0.0011 | lower is better | Squared MMD" in text
    assert "p = 0.310. |" in text
    assert "labels 97.3" in text
    assert "Comparable only with scores of the same provenance" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 13  # every metric of the table has a value here
    assert {line.count("|") for line in rows} == {5}
