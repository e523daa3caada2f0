"""Publishing: what is published, what is kept out, and what every fault leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError, ConfigError
from components.gate.verdict import Verdict, read_verdict
from components.push.config import PushConfig
from components.registry import maintenance
from components.registry.registry import check_image_size
from tests.support.datasets.tiny_artifacts import write_model
from tests.support.push_bench import SCORES, Bench


class TestDecisions:
    def test_the_first_model_is_published_after_a_real_load_test(self, real_bench: Bench) -> None:
        bench = real_bench
        inputs = bench.candidate()
        summary = bench.push(inputs)
        assert (summary.decision, summary.version) == ("published", "v0001")
        assert (summary.champion, summary.champion_kid) == ("", None)
        assert "First model of this registry: Precision 0.800 (at least " in summary.reason
        champion = bench.champion()
        assert champion is not None
        folder = Path(summary.uri)
        assert folder == Path(bench.registry, "versions", "v0001")
        assert (champion.image_size, champion.channels, champion.scores) == (8, 1, SCORES)
        version = read_manifest(folder, "version")
        assert version.inputs["model"] == champion.model_digest == read_manifest(inputs["model"]).digest
        assert {"scores.json", "model_card.md", "samples.png", "saved_model/saved_model.pb"} <= version.files.keys()
        details = read_manifest(bench.root / "push", "push").details
        assert details == summary.model_dump() | {"vertex_version": "", "judged_again": False}
        assert json.loads((bench.root / "push" / "decision.json").read_bytes()) == summary.model_dump()

    def test_a_better_model_replaces_the_champion(self, bench: Bench) -> None:
        first = bench.candidate()
        bench.push(first)
        summary = bench.push(bench.candidate(kid=0.04, kid_std=0.008))
        assert (summary.decision, summary.version) == ("published", "v0002")
        assert (summary.champion, summary.champion_kid) == ("v0001", 0.06)
        assert summary.reason == (
            "KID 0.0400 ± 0.0080 is better than v0001's 0.0600 ± 0.0060 in 100.0% of 1,000 bootstrap resamplings; "
            "95.0% are required (gate.confidence). "
            "Coverage 0.600 is at most 0.05 below v0001's 0.600 (gate.coverage_margin)."
        )
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
        assert "% are required (gate.confidence)" in summary.reason
        assert "overage" not in summary.reason, "only failed checks are a reason"
        assert not Path(bench.registry, "versions", "v0002").exists()
        again = bench.push(inputs)
        assert again.decision == "unchanged"
        assert again.reason == f"Already decided: {summary.reason}"
        # The decision depends on the confidence too: decide again.
        assert bench.push(inputs, confidence=0.5).decision == "published"

    def test_a_model_that_passed_is_kept_out_where_publishing_is_switched_off(self, bench: Bench) -> None:
        """Nothing is recorded, so that the next run that may publish it does so."""
        inputs = bench.candidate()
        before = bench.files()
        summary = bench.carry_out(inputs, bench.judge(inputs), config=PushConfig(publish=False))
        assert (summary.decision, summary.version, summary.uri) == ("kept", "", "")
        assert summary.reason.startswith(
            "The gate passed it, but it is not published, because push.publish is false. First model of this registry: "
        )
        assert bench.files() == before
        copying = bench.candidate(memorization=0.4)
        refused = bench.carry_out(copying, bench.judge(copying), config=PushConfig(publish=False))
        assert refused.reason.startswith("40% of the samples"), "the gate's reason, which is the stronger one"
        published = bench.push(inputs)
        assert (published.decision, published.version) == ("published", "v0001")

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
        assert "the limit is 25% (gate.max_memorization)" in summary.reason
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
        assert [check["name"] for check in json.loads(file.read_bytes())["checks"]] == [
            "data",
            "memorization",
            "kid",
            "coverage",
        ]


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


class TestVerdicts:
    """What push does with a verdict that does not fit its inputs, or that has become outdated."""

    def test_error_without_a_verdict(self, bench: Bench) -> None:
        inputs = bench.candidate()
        with pytest.raises(ArtifactError, match=r"/nothing has no manifest\.json: it is not a finished artifact"):
            bench.carry_out(inputs, bench.root / "nothing")
        with pytest.raises(ArtifactError, match="is a model, a verdict is needed"):
            bench.carry_out(inputs, inputs["model"])
        assert bench.files() == {}

    def test_error_for_a_verdict_on_something_else(self, bench: Bench) -> None:
        inputs = bench.candidate()
        verdict = bench.judge(inputs)
        evaluated_again = inputs | {"evaluation": bench.evaluation(inputs["model"], kid=0.01)}
        for others, names in ((bench.candidate(kid=0.05), "model and evaluation"), (evaluated_again, "evaluation")):
            with pytest.raises(ArtifactError) as caught:
                bench.carry_out(others, verdict)
            assert str(caught.value) == f"The verdict is on another {names}. Run gate on this model."
        assert bench.files() == {}

    def test_error_for_a_verdict_that_was_edited(self, bench: Bench) -> None:
        inputs = bench.candidate(memorization=0.4)
        verdict = bench.judge(inputs)
        file = verdict / "verdict.json"
        file.write_text(file.read_text().replace('"blessed": false', '"blessed": true'))
        with pytest.raises(ArtifactError, match=r"verdict\.json does not match its digest"):
            bench.carry_out(inputs, verdict)
        assert bench.files() == {}

    def test_a_model_is_judged_again_beside_a_new_champion(self, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
        """As two runs do that were judged before either of them published."""
        better, worse = bench.candidate(kid=0.04), bench.candidate(kid=0.06)
        verdicts = [bench.judge(inputs, confidence=0.6) for inputs in (better, worse)]
        assert [read_verdict(verdict).blessed for verdict in verdicts] == [True, True]
        assert bench.carry_out(better, verdicts[0]).decision == "published"
        assert not (bench.root / "push" / "verdict.json").exists()
        summary = bench.carry_out(worse, verdicts[1])
        assert (summary.decision, summary.champion, summary.champion_kid) == ("kept", "v0001", 0.04)
        assert "60.0% are required (gate.confidence)" in summary.reason, "by the rule of the verdict"
        said = "the verdict compares with nothing, but v0001 is in service: judging again"
        assert said in capsys.readouterr().out
        push = read_manifest(bench.root / "push", "push")
        assert push.details["judged_again"]
        assert push.inputs["verdict"] == read_manifest(verdicts[1]).digest
        again = Verdict.model_validate_json((bench.root / "push" / "verdict.json").read_bytes())
        assert (again.blessed, again.champion, again.reason) == (False, "v0001", summary.reason)
        assert (bench.root / "push" / "champion_samples.png").read_bytes() == b"a grid"
        assert bench.serves() == "v0001"

    def test_a_refused_model_is_published_if_the_champion_was_rolled_back(self, bench: Bench) -> None:
        bench.push(bench.candidate(kid=0.06))
        bench.push(bench.candidate(kid=0.02))
        inputs = bench.candidate(kid=0.04)
        verdict = bench.judge(inputs)
        assert not read_verdict(verdict).blessed
        maintenance.rollback(bench.registry)
        assert bench.carry_out(inputs, verdict).version == bench.serves() == "v0003"

    def test_a_verdict_that_was_carried_out_is_carried_out_once(self, bench: Bench) -> None:
        """As a platform does that repeats a step whose pod was lost after its work."""
        inputs = bench.candidate()
        verdict = bench.judge(inputs)
        bench.carry_out(inputs, verdict)
        before = bench.files()
        again = bench.carry_out(inputs, verdict)
        assert (again.decision, again.reason) == ("unchanged", "v0001 is already published.")
        assert bench.files() == before


class TestUnchangedIsCheap:
    def test_it_imports_no_tensorflow(self, bench: Bench) -> None:
        """In a new process, as the pipeline runs it: every unchanged second run does this."""
        inputs = bench.candidate()
        bench.push(inputs)
        program = (
            "import sys, pathlib\n"
            "from components.gate import config, run as gate\n"
            "from components.push.config import PushConfig\n"
            "from components.push.run import run\n"
            "names = ('registry', 'model', 'evaluation', 'validation', 'verdict', 'out')\n"
            "paths = dict(zip(names, map(pathlib.Path, sys.argv[1:])))\n"
            "judged = {name: path for name, path in paths.items() if name not in ('verdict', 'out')}\n"
            "gate.run(config.GateConfig(), **judged, out=paths['verdict'])\n"
            "summary = run(PushConfig(), **paths)\n"
            "heavy = {'tensorflow', 'keras', 'scipy', 'numpy', 'jinja2'} & set(sys.modules)\n"
            "print(summary.decision, sorted(heavy))"
        )
        folders = [inputs[name] for name in ("model", "evaluation", "validation")]
        paths = [bench.registry, *folders, bench.root / "verdict", bench.root / "again"]
        result = subprocess.run([sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == "unchanged []"
