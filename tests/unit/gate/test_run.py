"""The verdict artifact: what is in it, and what gate leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.common.artifacts import new_artifact, read_manifest
from components.common.errors import ArtifactError
from components.gate.config import GateConfig
from components.gate.verdict import Check, Verdict, read_verdict, verdict_markdown, verdict_numbers
from tests.support.push_bench import SCORES, Bench

BOUNDS = {"floor": {"kid": 0.0}, "ceiling": {"kid": 1.0}}


def test_the_verdict_on_the_first_model(bench: Bench) -> None:
    inputs = bench.candidate(**BOUNDS)
    folder = bench.judge(inputs, max_memorization=0.3)
    manifest, verdict = read_manifest(folder, "verdict"), read_verdict(folder)
    digests = {name: read_manifest(path).digest for name, path in inputs.items()}
    assert manifest.inputs == verdict.digests == digests
    assert manifest.config == verdict.rule.rule() == GateConfig(max_memorization=0.3).model_dump()
    assert (verdict.blessed, verdict.unchanged, verdict.version) == (True, False, "")
    assert (verdict.champion, verdict.champion_digest, verdict.champion_kid) == ("", "", None)
    assert (verdict.champion_scores, verdict.evidence) == (None, None)
    assert [check.name for check in verdict.checks] == [
        "data",
        "memorization",
        "first_precision",
        "first_recall",
        "first_coverage",
    ]
    assert bench.files() == {}, "gate only reads the registry"
    numbers = verdict_numbers(verdict)
    assert numbers.items() >= {
        "blessed": 1.0, "data_passed": 1.0, "data_errors": 0.0, "memorization_passed": 1.0,
        "memorization_share": SCORES["memorization"], "memorization_limit": 0.3,
        "first_precision_passed": 1.0, "first_precision_value": 0.8, "first_precision_real": 1.0, "first_precision_limit": 0.25,
    }.items()  # fmt: skip
    assert numbers["first_coverage_limit"] == pytest.approx(0.25 * numbers["first_coverage_real"])
    text = verdict_markdown(verdict)
    assert text.startswith(f"# Blessed\n\n{verdict.reason}\n\n| Check |")
    assert "| first_recall | yes | Recall 0.700: real images 1.000; a first model needs at least 0.250" in text


def test_the_verdict_beside_a_champion(bench: Bench) -> None:
    bench.push(bench.candidate())
    champion, before = bench.champion(), bench.files()
    folder = bench.judge(bench.candidate(kid=0.0597, coverage=0.5))
    verdict = read_verdict(folder)
    assert champion is not None
    assert (verdict.champion, verdict.champion_digest, verdict.champion_kid) == ("v0001", champion.digest, 0.06)
    assert verdict.champion_scores == SCORES
    assert verdict.evidence is not None
    assert verdict.evidence["share_better"] < 0.95
    assert (folder / "champion_samples.png").read_bytes() == b"a grid"
    assert bench.files() == before, "the decision is recorded by push"
    numbers = verdict_numbers(verdict)
    assert numbers.items() >= {
        "blessed": 0.0, "champion_kid": 0.06, "kid_passed": 0.0, "kid_value": 0.0597, "kid_champion": 0.06,
        "kid_required": 0.95, "coverage_passed": 0.0, "coverage_value": 0.5, "coverage_champion": 0.6,
        "coverage_margin": 0.05,
    }.items()  # fmt: skip
    assert 0 < numbers["kid_share_better"] < 0.95
    text = verdict_markdown(verdict)
    assert text.startswith(f"# Not blessed\n\n{verdict.reason}\n\n| Check |")
    assert "| coverage | no | Coverage 0.500 is more than 0.05 below v0001's 0.600" in text


def test_an_unchanged_verdict_repeats_the_checks_of_the_decision(bench: Bench) -> None:
    for scores in ({}, {"kid": 0.07}):
        inputs = bench.candidate(**scores)
        first = read_verdict(bench.judge(inputs))
        bench.carry_out(inputs, bench.judge(inputs))
        again = read_verdict(bench.judge(inputs))
        assert again.unchanged
        assert (again.blessed, again.checks) == (first.blessed, first.checks)
        assert again.evidence is None, "nothing was scored"
        assert verdict_markdown(again).startswith(f"# Unchanged\n\n{again.reason}\n\n| Check |")


def test_an_unchanged_verdict_on_new_scores_has_no_checks_of_the_old_ones(bench: Bench) -> None:
    inputs = bench.candidate()
    bench.push(inputs)
    verdict = read_verdict(bench.judge(inputs | {"evaluation": bench.evaluation(inputs["model"], kid=0.01)}))
    assert (verdict.blessed, verdict.unchanged, verdict.version, verdict.checks) == (True, True, "v0001", ())
    assert verdict_markdown(verdict) == "# Unchanged\n\nv0001 is already published.\n"


def test_names_from_the_data_are_not_markup() -> None:
    check = Check("data", passed=False, sentence="Label a|<b> is gone.", numbers={"errors": 1})
    verdict = Verdict(
        blessed=False, reason=check.sentence, champion="", champion_digest="", champion_kid=None, checks=(check,), digests={},
        rule=GateConfig(),
    )  # fmt: skip
    text = verdict_markdown(verdict)
    assert "<" not in text
    assert "| data | no | Label a\\|&lt;b> is gone. |" in text


def test_error_for_an_unreadable_verdict(tmp_path: Path) -> None:
    with new_artifact(tmp_path / "verdict", "verdict", config=GateConfig()) as writer:
        (writer.path / "verdict.json").write_text(json.dumps({"blessed": True}))
    with pytest.raises(ArtifactError, match=r"verdict\.json cannot be read: .* Run gate again\."):
        read_verdict(tmp_path / "verdict")
