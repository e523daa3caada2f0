"""METRICS: a metric needs only one row to be measured and shown."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from components.evaluate.config import EvaluateConfig
from components.evaluate.metrics import table
from components.evaluate.metrics.inputs import Inputs
from components.evaluate.metrics.metric import Metric
from components.evaluate.scores import Reference, Samples, measure, measure_features

DOCS = Path(__file__).parents[3] / "docs" / "scores.md"


def mean_distance(inputs: Inputs) -> dict[str, float]:
    return {"mean_distance": float(np.linalg.norm(inputs.real.mean(axis=0) - inputs.fake.mean(axis=0)))}


NEW = Metric(
    name="mean_distance",
    title="Mean distance",
    better="lower",
    best=0.0,
    range="0 and up",
    reading="lower is better",
    meaning="Distance between the mean features of samples and of real images.",
    shown=frozenset({"report", "scale", "card", "vertex", "console"}),
    measure=mean_distance,
)


def test_a_metric_with_a_row_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "METRICS", (*table.METRICS, NEW))
    features = np.random.default_rng(0).standard_normal((230, 16)).astype(np.float32)
    reference = Reference(features[:100], features[100:130], 100)
    summary = measure(reference, Samples(features[130:] + 1.0), EvaluateConfig(samples=100), {}).summary
    assert summary.scores["mean_distance"] == pytest.approx(4.0, abs=0.5)  # √16
    assert summary.model_dump(mode="json")["mean_distance"] == summary.scores["mean_distance"]
    assert measure_features(features[:100], features[130:] + 1.0, 5)["mean_distance"] == summary.scores["mean_distance"]


def test_finite_values_are_all_numbers_of_the_table_and_no_others() -> None:
    scores = {"fid": 12.5, "kid": 0.01, "kid_std": 0.001, "classes_covered": 10, "memorization_p": 0.3, "precision": math.nan}
    others = {"recall": None, "provenance": {}, "floor": {"fid": 1.0}, "intervals": {"fid": [1.0, 2.0]}}
    assert table.finite_values(scores | others) == {
        "fid": 12.5, "kid": 0.01, "kid_std": 0.001, "classes_covered": 10.0, "memorization_p": 0.3,
    }  # fmt: skip


def test_names_are_unique_and_the_gate_uses_six_metrics() -> None:
    names = [metric.name for metric in table.METRICS]
    assert len(names) == len(set(names))
    assert {metric.name for metric in table.METRICS if metric.gate} == {
        "kid",
        "precision",
        "recall",
        "coverage",
        "memorization",
        "memorization_nearer",
    }


@pytest.mark.parametrize(
    ("name", "a", "b", "sign"),
    [("kid", 0.1, 0.2, 1), ("coverage", 0.1, 0.2, -1), ("sharpness_ratio", 1.1, 0.8, 1), ("fid", 3.0, 3.0, 0)],
)
def test_gain_is_positive_for_the_better_value(name: str, a: float, b: float, sign: int) -> None:
    metric = next(each for each in table.METRICS if each.name == name)
    assert np.sign(metric.gain(a, b)) == sign
    assert np.sign(metric.gain(b, a)) == -sign


def test_a_metric_without_a_best_value_has_no_gain() -> None:
    density = next(each for each in table.METRICS if each.name == "density")
    assert np.isnan(density.gain(0.9, 1.1))


def test_text_has_the_standard_error_and_no_negative_zero() -> None:
    kid = next(each for each in table.METRICS if each.name == "kid")
    assert kid.text({"kid": -0.00001, "kid_std": 0.0018}) == "0.0000 ± 0.0018"
    assert kid.text({"kid": -0.0123}) == "-0.0123"
    assert kid.text({}) == ""


def test_the_table_in_the_docs_is_current() -> None:
    assert table.as_markdown() in DOCS.read_text(), "python -m components.evaluate.metrics.table prints it"
