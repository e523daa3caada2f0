"""The gate: each check decides alone, and the reason says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from components.evaluate.metrics import table
from components.gate.checks import RescoredChampion, check_candidate, reason_of
from components.gate.config import GateConfig
from components.gate.evidence import Evidence
from components.gate.verdict import Check
from tests.support.push_bench import SCORES

BETTER = Evidence(0.02, 0.99, 0.01, 0.03, 1000)


def passed(checks: Sequence[Check]) -> bool:
    return all(check.passed for check in checks)


@pytest.mark.parametrize(
    ("change", "share_better", "errors", "sentence"),
    [
        ({}, 0.949, [], "in 94.9% of 1,000 bootstrap resamplings; 95.0% are required (gate.confidence)."),
        ({"coverage": 0.54}, 0.99, [], "Coverage 0.540 is more than 0.05 below v0001's 0.600 (gate.coverage_margin)."),
        ({"memorization": 0.26}, 0.99, [], "26% of the samples are nearer to a training image"),
        (
            {"memorization_nearer": 0.91, "memorization_p": 0.009},
            0.99,
            [],
            "91% of pairs, p = 0.009 (Mann-Whitney); above 90%",
        ),
        ({"memorization_nearer": 0.91, "memorization_p": 1e-30}, 0.99, [], "p < 0.001 (Mann-Whitney)"),
        ({"memorization_nearer": 0.91, "memorization_p": 0.011}, 0.99, [], ""),
        ({"memorization_nearer": 0.89, "memorization_p": 1e-30}, 0.99, [], ""),
        ({}, 0.99, ["label 7 is gone"], "The data was not accepted: label 7 is gone."),
        ({}, 0.95, [], ""),
        ({"coverage": 0.56}, 0.99, [], ""),
    ],
)
def test_each_check_beside_a_champion(change: dict[str, float], share_better: float, errors: list[str], sentence: str) -> None:
    champion = RescoredChampion("v0001", SCORES, BETTER._replace(share_better=share_better))
    checks = check_candidate(GateConfig(), SCORES | {"kid": 0.04} | change, champion, errors)
    assert sentence in reason_of(checks)
    assert [check.passed for check in checks].count(False) == bool(sentence)


def test_equal_models_do_not_replace_each_other() -> None:
    equal = RescoredChampion("v0001", SCORES, Evidence(0.0, 0.6, -0.01, 0.01, 1000))
    assert not passed(check_candidate(GateConfig(confidence=0.5), SCORES, equal))


@pytest.mark.parametrize(("kid", "publish"), [(0.06, True), (0.5, True), (0.51, False), (2.0, False)])
def test_the_first_model_is_compared_with_noise_and_real_images(kid: float, publish: bool) -> None:
    bounds = {"floor": {"kid": 0.0}, "ceiling": {"kid": 1.0}}
    checks = check_candidate(GateConfig(), SCORES | bounds | {"kid": kid}, None)
    assert passed(checks) == publish
    assert reason_of(checks) == (
        f"First model of this registry, KID {kid:.4f} ± 0.0060: "
        "noise scores 1.0000, real images 0.0000; the limit is 0.5000 (gate.first_share)."
    )


@pytest.mark.parametrize(
    "bounds", [{}, {"floor": {"kid": 0.1}, "ceiling": None}, {"floor": {"kid": 1.0}, "ceiling": {"kid": 1.0}}]
)
def test_the_first_model_without_anything_to_compare_with(bounds: dict[str, Any]) -> None:
    checks = check_candidate(GateConfig(), SCORES | bounds, None)
    assert passed(checks)
    assert "there are no scores of noise and of real images to compare with" in reason_of(checks)


def test_the_gate_reads_the_metrics_that_the_table_marks() -> None:
    read = set()

    class Scores(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            read.add(name)
            return super().__getitem__(name)

        def get(self, name: str, default: Any = None) -> Any:
            read.add(name)
            return super().get(name, default)

    check_candidate(GateConfig(), Scores(SCORES), RescoredChampion("v0001", SCORES, BETTER))
    assert read & {metric.name for metric in table.METRICS} == {metric.name for metric in table.METRICS if metric.gate}
