"""The decision as numbers and as Markdown, from push artifacts that push wrote."""

from __future__ import annotations

import math
from pathlib import Path

from components.common.artifacts import new_artifact
from components.push.config import PushConfig
from components.push.verdict import verdict_markdown, verdict_numbers
from tests.support.push_bench import SCORES, Bench

BOUNDS = {"floor": {"kid": 0.0}, "ceiling": {"kid": 1.0}}


def test_the_first_model(bench: Bench) -> None:
    summary = bench.push(bench.candidate(**BOUNDS))
    push = bench.root / "push"
    numbers = verdict_numbers(push)
    assert numbers.items() >= {
        "published": 1.0, "data_passed": 1.0, "data_errors": 0.0, "memorization_passed": 1.0, "first_passed": 1.0,
        "first_kid": 0.06, "first_noise": 1.0, "first_real": 0.0, "first_limit": 0.5,
        "memorization_share": SCORES["memorization"], "memorization_limit": PushConfig().max_memorization,
    }.items()  # fmt: skip
    assert "champion_kid" not in numbers
    text = verdict_markdown(push)
    assert text.startswith(f"# Published as v0001\n\n{summary.reason}\n\nVersion v0001: `{summary.uri}`\n\n| Check |")
    assert f"| first | yes | {summary.reason} |" in text
    card = (Path(summary.uri) / "model_card.md").read_text()
    picture = "![Samples of v0001, not selected](samples.png)"
    assert picture in card
    assert text.endswith(card.replace(f"{picture}\n", ""))


def test_a_model_that_is_kept_out(bench: Bench) -> None:
    bench.push(bench.candidate())
    summary = bench.push(bench.candidate(kid=0.0597, coverage=0.5))
    push = bench.root / "push"
    numbers = verdict_numbers(push)
    assert numbers.items() >= {
        "published": 0.0, "champion_kid": 0.06, "kid_passed": 0.0, "kid_value": 0.0597, "kid_champion": 0.06,
        "kid_required": 0.95, "coverage_passed": 0.0, "coverage_value": 0.5, "coverage_champion": 0.6,
        "coverage_margin": 0.05,
    }.items()  # fmt: skip
    assert 0 < numbers["kid_share_better"] < 0.95
    text = verdict_markdown(push)
    assert text.startswith(f"# Not published\n\n{summary.reason}\n\n| Check |")
    assert "| coverage | no | Coverage 0.500 is more than 0.05 below v0001's 0.600" in text
    assert "Generator" not in text


def test_the_same_model_again(bench: Bench) -> None:
    inputs = bench.candidate()
    bench.push(inputs)
    summary = bench.push(inputs)
    push = bench.root / "push"
    assert verdict_numbers(push) == {"published": 1.0, "champion_kid": 0.06}
    expected = f"# Unchanged\n\nv0001 is already published.\n\nVersion v0001: `{summary.uri}`\n"
    assert verdict_markdown(push) == expected


def test_names_from_the_data_are_not_markup_and_infinite_numbers_are_left_out(tmp_path: Path) -> None:
    with new_artifact(tmp_path / "push", "push", config=PushConfig()) as writer:
        check = {"name": "data", "passed": False, "sentence": "Label a|<b> is gone.", "numbers": {"errors": math.inf}}
        named = {"decision": "kept", "reason": "Label a|<b> is gone.", "version": "", "uri": "", "champion_kid": None}
        writer.details = {**named, "checks": [check]}
    assert verdict_numbers(tmp_path / "push") == {"published": 0.0, "data_passed": 0.0}
    text = verdict_markdown(tmp_path / "push")
    assert "<" not in text
    assert "| data | no | Label a\\|&lt;b> is gone. |" in text
