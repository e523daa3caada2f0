"""What push has done as numbers and as Markdown, from push artifacts that push wrote."""

from __future__ import annotations

from pathlib import Path

from components.push.outcome import outcome_markdown, outcome_numbers
from tests.support.push_bench import Bench


def test_a_published_model(bench: Bench) -> None:
    summary = bench.push(bench.candidate())
    push = bench.root / "push"
    assert outcome_numbers(push) == {"published": 1.0}
    text = outcome_markdown(push)
    card = (Path(summary.uri) / "model_card.md").read_text()
    picture = "![Samples of v0001, not selected](samples.png)"
    assert picture in card
    expected = f"# Published as v0001\n\n{summary.reason}\n\nVersion v0001: `{summary.uri}`\n\n"
    assert text == expected + card.replace(f"{picture}\n", "")


def test_a_model_that_is_kept_out(bench: Bench) -> None:
    bench.push(bench.candidate())
    summary = bench.push(bench.candidate(kid=0.0597))
    assert outcome_numbers(bench.root / "push") == {"published": 0.0}
    assert outcome_markdown(bench.root / "push") == f"# Not published\n\n{summary.reason}\n"


def test_the_same_model_again(bench: Bench) -> None:
    inputs = bench.candidate()
    bench.push(inputs)
    summary = bench.push(inputs)
    assert outcome_numbers(bench.root / "push") == {"published": 1.0}
    expected = f"# Unchanged\n\nv0001 is already published.\n\nVersion v0001: `{summary.uri}`\n"
    assert outcome_markdown(bench.root / "push") == expected


def test_a_model_that_was_judged_again(bench: Bench) -> None:
    worse = bench.candidate(kid=0.07)
    verdict = bench.judge(worse)
    bench.push(bench.candidate(kid=0.05))
    bench.carry_out(worse, verdict)
    numbers = outcome_numbers(bench.root / "push")
    assert numbers.items() >= {"published": 0.0, "blessed": 0.0, "kid_passed": 0.0, "kid_champion": 0.05}.items()
    text = outcome_markdown(bench.root / "push")
    assert "Judged again, because the champion changed after the gate:\n\n| Check | Passed | Why |" in text
    assert "| coverage | yes |" in text
