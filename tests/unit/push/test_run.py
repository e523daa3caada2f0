"""Publishing: what is published, what is kept out, and what every fault leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.common.artifacts import read_manifest
from components.common.errors import ConfigError
from components.push.registry.registry import check_image_size
from tests.support.datasets.tiny_artifacts import write_model
from tests.support.push_bench import SCORES, Bench


class TestDecisions:
    def test_the_first_model_is_published_after_a_real_load_test(self, real_bench: Bench) -> None:
        bench = real_bench
        inputs = bench.candidate()
        summary = bench.push(inputs)
        assert (summary.decision, summary.version) == ("published", "v0001")
        assert (summary.champion, summary.champion_kid) == ("", None)
        assert "First model of this registry, KID 0.0600 ± 0.0060" in summary.reason
        champion = bench.champion()
        assert champion is not None
        folder = Path(summary.uri)
        assert folder == Path(bench.registry, "versions", "v0001")
        assert (champion.image_size, champion.channels, champion.scores) == (8, 1, SCORES)
        version = read_manifest(folder, "version")
        assert version.inputs["model"] == champion.model_digest == read_manifest(inputs["model"]).digest
        assert {"scores.json", "model_card.md", "samples.png", "saved_model/saved_model.pb"} <= version.files.keys()
        details = read_manifest(bench.root / "push", "push").details
        assert details.items() >= summary.model_dump().items()
        assert details["champion_scores"] is None
        assert [check["name"] for check in details["checks"]] == ["data", "memorization", "first"]
        assert json.loads((bench.root / "push" / "decision.json").read_bytes()) == summary.model_dump()

    def test_the_same_model_again_changes_nothing(self, bench: Bench) -> None:
        inputs = bench.candidate()
        bench.push(inputs)
        before = bench.files()
        summary = bench.push(inputs)
        assert (summary.decision, summary.reason) == ("unchanged", "v0001 is already published.")
        assert (summary.version, summary.champion, summary.champion_kid) == ("v0001", "v0001", 0.06)
        assert bench.files() == before

    def test_a_better_model_replaces_the_champion(self, bench: Bench) -> None:
        first = bench.candidate()
        bench.push(first)
        summary = bench.push(bench.candidate(kid=0.04, kid_std=0.008))
        assert (summary.decision, summary.version) == ("published", "v0002")
        assert (summary.champion, summary.champion_kid) == ("v0001", 0.06)
        assert summary.reason == (
            "KID 0.0400 ± 0.0080 is better than v0001's 0.0600 ± 0.0060 in 100.0% of 1,000 bootstrap resamplings; "
            "95.0% are required (push.confidence). "
            "Coverage 0.600 is at most 0.05 below v0001's 0.600 (push.coverage_margin)."
        )
        details = read_manifest(bench.root / "push", "push").details
        assert details["champion_scores"]["kid"] == 0.06
        assert details["evidence"]["share_better"] == 1.0
        champion = bench.champion()
        assert champion is not None
        assert champion.version == "v0002"
        again = bench.push(first)
        assert again.decision == "unchanged"
        assert again.reason == "v0001 is already published; v0002 has replaced it."

    def test_a_model_that_is_not_better_beyond_noise_is_kept_out(
        self, bench: Bench, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bench.push(bench.candidate())
        inputs = bench.candidate(kid=0.0597)
        summary = bench.push(inputs)
        assert (summary.decision, summary.version, summary.uri) == ("kept", "", "")
        assert f"not published: {summary.reason}" in capsys.readouterr().out
        assert "% are required (push.confidence)" in summary.reason
        assert "overage" not in summary.reason, "only failed checks are a reason"
        assert not Path(bench.registry, "versions", "v0002").exists()
        again = bench.push(inputs)
        assert again.decision == "unchanged"
        assert again.reason == f"Already decided: {summary.reason}"
        # The decision depends on the confidence too: decide again.
        assert bench.push(inputs, confidence=0.5).decision == "published"

    def test_a_new_champion_or_a_new_evaluation_needs_a_new_decision(self, bench: Bench) -> None:
        bench.push(bench.candidate())
        inputs = bench.candidate(kid=0.07)
        assert bench.push(inputs).decision == "kept"
        better = inputs | {"evaluation": bench.evaluation(inputs["model"], kid=0.02)}
        assert bench.push(better).decision == "published"
        worse = bench.candidate(kid=0.03)
        assert bench.push(worse).champion == "v0002"

    def test_a_copying_model_is_kept_out_of_an_empty_registry_too(self, bench: Bench) -> None:
        inputs = bench.candidate(kid=0.0, memorization=0.4)
        summary = bench.push(inputs)
        assert summary.decision == "kept"
        assert "40% of the samples are nearer to a training image" in summary.reason
        assert "the limit is 25% (push.max_memorization)" in summary.reason
        assert bench.champion() is None
        assert bench.push(inputs).decision == "unchanged"

    def test_a_decision_recorded_with_another_rule_is_made_again(self, bench: Bench) -> None:
        bench.push(bench.candidate())
        inputs = bench.candidate(kid=0.07)
        bench.push(inputs)
        file = Path(bench.registry, "decisions") / f"{read_manifest(inputs['model']).digest}.json"
        record = json.loads(file.read_bytes())
        del record["rule"]
        file.write_text(json.dumps(record | {"noise_sigmas": 1.0}))
        assert bench.push(inputs).decision == "kept"
        assert json.loads(file.read_bytes())["rule"]["confidence"] == 0.95


class TestRefusals:
    def test_error_for_a_champion_with_images_of_another_size(self, bench: Bench) -> None:
        bench.push(bench.candidate())
        model = write_model(bench.root / "larger", np.zeros((4, 28, 28, 3), np.uint8))
        inputs = bench.inputs(model)
        before = bench.files()
        with pytest.raises(ConfigError) as caught:
            bench.push(inputs)
        assert str(caught.value) == (
            f"Champion v0001 in {bench.registry} makes 8×8×1 images, this run 28×28×3. Use another push.registry."
        )
        assert bench.files() == before
        champion = bench.champion()
        assert champion is not None
        check_image_size(champion, bench.registry, 8, 1)


class TestUnchangedIsCheap:
    def test_it_imports_no_tensorflow(self, bench: Bench) -> None:
        """In a new process, as the pipeline runs it: every unchanged second run does this."""
        inputs = bench.candidate()
        bench.push(inputs)
        program = (
            "import sys, pathlib\n"
            "from components.push.config import PushConfig\n"
            "from components.push.run import run\n"
            "names = ('registry', 'model', 'evaluation', 'validation', 'out')\n"
            "summary = run(PushConfig(), **dict(zip(names, map(pathlib.Path, sys.argv[1:]))))\n"
            "heavy = {'tensorflow', 'keras', 'scipy', 'numpy', 'jinja2'} & set(sys.modules)\n"
            "print(summary.decision, sorted(heavy))"
        )
        paths = [bench.registry, *(inputs[name] for name in ("model", "evaluation", "validation")), bench.root / "again"]
        result = subprocess.run([sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == "unchanged []"
