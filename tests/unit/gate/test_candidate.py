"""The artifacts that the gate judges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError
from components.gate.candidate import Candidate
from tests.support.datasets.tiny_artifacts import write_dataset, write_validation
from tests.support.push_bench import Bench


def candidate_with(validation: Path, bench: Bench) -> Candidate:
    return Candidate({"validation": validation}, {"model": read_manifest(bench.shared / "model")})


@pytest.mark.parametrize(
    ("severity", "accepted", "errors"),
    [("warning", "", []), ("error", "", ["Label 7 is gone"]), ("error", "validate.accept", [])],
)
def test_only_errors_that_were_not_accepted_count(
    bench: Bench, tmp_path: Path, severity: str, accepted: str, errors: list[str]
) -> None:
    (tmp_path / "anomalies.json").write_text(json.dumps([{"severity": severity, "text": "Label 7 is gone."}]))
    (tmp_path / "comparison.json").write_text(json.dumps({"why": accepted}))
    assert candidate_with(tmp_path, bench).data_errors() == errors


def test_error_for_an_unreadable_validation(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "anomalies.json").write_text("[]")
    with pytest.raises(
        ArtifactError, match=r"comparison\.json in .* cannot be read: No such file or directory\. Run validate again"
    ):
        candidate_with(tmp_path, bench).data_errors()


def test_error_for_an_evaluation_of_another_model(bench: Bench) -> None:
    inputs = bench.candidate() | {"evaluation": bench.candidate()["evaluation"]}
    with pytest.raises(ArtifactError, match="evaluation is of another model"):
        bench.push(inputs)


def test_error_for_a_validation_of_another_dataset(bench: Bench) -> None:
    other = write_dataset(bench.root / "other", train=100)
    with pytest.raises(ArtifactError, match="validation is of another dataset"):
        bench.push(bench.candidate() | {"validation": write_validation(bench.root / "validation", other)})
