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


USELESS = {
    "noise": {"kid": 90.0, "precision": 0.0, "recall": 0.0, "coverage": 0.0},
    "a handful of images": {"kid": 0.4, "precision": 1.0, "recall": 0.0, "coverage": 0.01},
}
REAL = {"kid": 0.001, "precision": 0.9, "recall": 0.8, "coverage": 0.3}
MEASURED = SCORES["provenance"] | {"samples": 2000, "neighbours_k": 5, "real": {"count": 10_000}}
GOOD = {"kid": 0.05, "precision": 0.28, "recall": 0.25, "coverage": 0.2}
FIRST = SCORES | {"provenance": MEASURED, "floor": REAL, "ceiling": USELESS["noise"], "useless": USELESS} | GOOD


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, ""),
        ({"precision": 0.22}, "Precision 0.220: noise scores 0.000, real images 0.900; a first model needs at least 0.225"),
        ({"recall": 0.19}, "Recall 0.190: noise scores 0.000, real images 0.800; a first model needs at least 0.200"),
        ({"coverage": 0.14}, "Coverage 0.140: noise scores 0.000, real images 0.598; a first model needs at least 0.150"),
        (
            {"kid": 0.072},
            "KID 0.0720 ± 0.0060: noise scores 90.0000, real images 0.0010, and the best of the useless images, a handful of "
            "images, 0.4000; a first model needs at most 0.0711",
        ),
    ],
)
def test_the_first_model_is_compared_with_useless_and_real_images(change: dict[str, float], sentence: str) -> None:
    checks = check_candidate(GateConfig(), FIRST | change, None)
    assert passed(checks) == (not sentence)
    reason = reason_of(checks)
    if sentence:
        assert reason.startswith(f"First model of this registry. {sentence}")
        assert reason.count("(gate.first_share).") == 1
    else:
        shares = "Precision 0.280 (at least 0.225), Recall 0.250 (at least 0.200), Coverage 0.200 (at least 0.150)"
        assert reason == f"First model of this registry: {shares}, KID 0.0500 (at most 0.0711)."


def test_a_share_of_0_accepts_every_first_model() -> None:
    useless = FIRST | USELESS["noise"]
    assert passed(check_candidate(GateConfig(first_share=0), useless, None))
    assert not passed(check_candidate(GateConfig(first_share=0.01), useless, None))


def test_a_first_model_without_held_out_images_and_of_an_earlier_version() -> None:
    unknown = {"floor": None, "ceiling": None, "useless": None}
    checks = check_candidate(GateConfig(), FIRST | unknown | {"precision": 0.24}, None)
    assert "Precision 0.240: real images 1.000; a first model needs at least 0.250" in reason_of(checks)
    assert not passed(checks)


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
    check_candidate(GateConfig(), Scores(FIRST), None)
    assert read & {metric.name for metric in table.METRICS} == {metric.name for metric in table.METRICS if metric.gate}
