"""The champion is scored again with the extractor and images of the candidate's evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.common.errors import ArtifactError
from components.evaluate import run as evaluate
from components.evaluate.config import EvaluateConfig
from components.gate import rescoring
from components.gate.verdict import read_verdict
from components.push import publish
from tests.support.datasets.tiny_artifacts import part, sample_here, write_model
from tests.support.push_bench import SCORES, Bench


@pytest.mark.heavy
def test_the_champion_is_rescored_with_a_real_evaluation(real_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up 0.0001 of the champion must be replaced by its real KID."""
    bench = real_bench
    monkeypatch.setattr(publish, "check_loads", lambda *_: None)
    monkeypatch.setattr(evaluate, "sample_in_fresh_process", sample_here)
    noisy = write_model(bench.root / "noisy", part("rest").images, noise=90)
    assert bench.push(bench.inputs(noisy, kid=0.0001)).version == "v0001"
    good, dataset = bench.shared / "model", bench.shared / "dataset"
    config = EvaluateConfig(samples=300, kid_subsets=5, kid_subset_size=100, extractor_epochs=2)
    folders = {"dataset": dataset, "model": good, "work_dir": bench.root / "work"}
    scores = evaluate.run(config, **folders, out=bench.root / "evaluation")
    inputs = {**bench.inputs(good), "evaluation": bench.root / "evaluation"}
    verdict = bench.judge(inputs)
    summary = bench.carry_out(inputs, verdict)
    assert summary.decision == "published"
    assert summary.champion_kid is not None
    assert summary.champion_kid > scores.kid + 0.05
    evidence = read_verdict(verdict).evidence
    assert evidence is not None
    assert evidence["difference"] == pytest.approx(summary.champion_kid - scores.kid, rel=1e-6)


def test_an_evaluation_by_another_release_is_refused(bench: Bench) -> None:
    bench.push(bench.candidate())
    before = bench.files()
    provenance = SCORES["provenance"] | {"code": "00"}  # type: ignore[operator]
    with pytest.raises(ArtifactError, match="made by another release of this program: code differ"):
        bench.push(bench.candidate(kid=0.01, provenance=provenance))
    assert bench.files() == before


def test_error_for_damaged_features(tmp_path: Path) -> None:
    (tmp_path / "sample_features.npy").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match=r"sample_features\.npy cannot be read: .* Run evaluate again"):
        rescoring.candidate_features(tmp_path)


def test_error_for_features_of_another_width(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.push(bench.candidate())
    monkeypatch.setattr(rescoring, "rescored", lambda *_: (SCORES, np.zeros((10, 3), np.float32)))
    with pytest.raises(ArtifactError, match=r"features differ in width: real 8, candidate 8, champion 3\. Run evaluate"):
        bench.push(bench.candidate(kid=0.01))
