"""Publishing: what is published, what is kept out, what every fault leaves behind."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import tensorflow as tf

from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError, ConfigError
from components.evaluate import run as evaluate
from components.evaluate.config import EvaluateConfig
from components.push import load_test
from components.push import run as push
from components.push.card import model_card_html
from components.push.config import PushConfig
from components.push.gate import rescoring
from components.push.gate.evidence import Evidence
from components.push.gate.gate import Opponent, judge
from components.push.registry import publish, registry
from components.train.config import TrainConfig
from components.train.networks import ImageShape
from components.train.saving.export import Generator
from tests.support.push_bench import SCORES, Bench, rescored
from tests.support.tiny_artifacts import (
    LATENTS,
    part,
    sample_here,
    save_generator,
    write_dataset,
    write_model,
    write_validation,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("push")
    write_validation(root / "validation", write_dataset(root / "dataset"))
    write_model(root / "model", part("rest").images)
    return root


@pytest.fixture
def bench(tmp_path: Path, shared: Path) -> Bench:
    return Bench(tmp_path, shared)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what follows from the champion's scores; TestMeasure has a real evaluation."""
    monkeypatch.setattr(rescoring, "rescored", rescored)


@pytest.fixture
def no_load_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what comes before and after it: it takes 4 seconds, and has tests of its own."""
    monkeypatch.setattr(publish, "check_loads", lambda *_: None)


class TestDecisions:
    def test_the_first_model_is_published_after_a_real_load_test(self, bench: Bench) -> None:
        inputs = bench.candidate()
        summary = bench.push(inputs)
        assert (summary.decision, summary.version, summary.champion, summary.champion_kid) == (
            "published",
            "v0001",
            "",
            None,
        )
        assert "first model" in summary.reason
        assert "0.0600 ± 0.0060" in summary.reason
        champion = registry.read_champion(bench.registry)
        assert champion is not None
        assert champion.path == Path(summary.uri) == bench.registry / "versions" / "v0001"
        assert (champion.image_size, champion.channels, champion.scores) == (8, 1, SCORES)
        version = read_manifest(champion.path, "version")
        assert version.inputs["model"] == champion.model_digest == read_manifest(inputs["model"]).digest
        assert {"scores.json", "model_card.md", "samples.png", "saved_model/saved_model.pb"} <= version.files.keys()
        details = read_manifest(bench.root / "push", "push").details
        assert details.items() >= summary.model_dump().items()
        assert details["champion_scores"] is None
        assert [check["name"] for check in details["checks"]] == ["data", "memorization", "first"]
        assert json.loads((bench.root / "push" / "decision.json").read_bytes()) == summary.model_dump()

    def test_the_same_model_again_changes_nothing(self, bench: Bench, no_load_test: None) -> None:
        inputs = bench.candidate()
        bench.push(inputs)
        before = bench.files()
        summary = bench.push(inputs)
        assert (summary.decision, summary.reason) == ("unchanged", "v0001 is already published.")
        assert (summary.version, summary.champion, summary.champion_kid) == ("v0001", "v0001", 0.06)
        assert bench.files() == before

    def test_a_better_one_replaces_the_champion(self, bench: Bench, no_load_test: None, measured: None) -> None:
        first = bench.candidate()
        bench.push(first)
        summary = bench.push(bench.candidate(kid=0.04, kid_std=0.008))
        assert (summary.decision, summary.version) == ("published", "v0002")
        assert (summary.champion, summary.champion_kid) == ("v0001", 0.06)
        assert summary.reason == (
            "Its KID 0.0400 ± 0.0080 is lower than v0001's 0.0600 ± 0.0060 in 100.0% of 1,000 resamplings of the same real "
            "images and of the samples; 95.0% are needed (push.confidence). "
            "Its coverage 0.600 is not below v0001's 0.600 by more than 0.05 (push.coverage_margin)."
        )
        details = read_manifest(bench.root / "push", "push").details
        assert details["champion_scores"]["kid"] == 0.06
        assert details["evidence"]["share_better"] == 1.0
        champion = registry.read_champion(bench.registry)
        assert champion is not None
        assert champion.version == "v0002"
        again = bench.push(first)
        assert again.decision == "unchanged"
        assert again.reason == "v0001 is already published; v0002 has replaced it."

    def test_one_that_is_not_better_beyond_noise_is_kept_out(self, bench: Bench, no_load_test: None, measured: None) -> None:
        bench.push(bench.candidate())
        inputs = bench.candidate(kid=0.0597)
        summary = bench.push(inputs)
        assert (summary.decision, summary.version, summary.uri) == ("kept", "", "")
        assert "% are needed (push.confidence)" in summary.reason
        assert "coverage" not in summary.reason, "only what failed is a reason"
        assert not (bench.registry / "versions" / "v0002").exists()
        again = bench.push(inputs)
        assert again.decision == "unchanged"
        assert again.reason == f"Already decided: {summary.reason}"
        # What the decision rests on is not the same any more: decide again.
        assert bench.push(inputs, confidence=0.5).decision == "published"

    def test_a_new_champion_or_a_new_evaluation_reopens_the_case(
        self, bench: Bench, no_load_test: None, measured: None
    ) -> None:
        bench.push(bench.candidate())
        inputs = bench.candidate(kid=0.07)
        assert bench.push(inputs).decision == "kept"
        better = inputs | {"evaluation": bench.evaluation(inputs["model"], kid=0.02)}
        assert bench.push(better).decision == "published"
        worse = bench.candidate(kid=0.03)
        assert bench.push(worse).champion == "v0002"

    def test_a_copying_model_is_kept_out_even_from_an_empty_registry(self, bench: Bench) -> None:
        inputs = bench.candidate(kid=0.0, memorization=0.4)
        summary = bench.push(inputs)
        assert summary.decision == "kept"
        assert "40% of its samples lie nearer to a training image" in summary.reason
        assert "at most 25% may (push.max_memorization)" in summary.reason
        assert registry.read_champion(bench.registry) is None
        assert bench.push(inputs).decision == "unchanged"

    def test_a_record_of_the_earlier_rule_is_decided_on_again(self, bench: Bench, no_load_test: None, measured: None) -> None:
        bench.push(bench.candidate())
        inputs = bench.candidate(kid=0.07)
        bench.push(inputs)
        file = bench.registry / "decisions" / f"{read_manifest(inputs['model']).digest}.json"
        record = json.loads(file.read_bytes())
        del record["rule"]
        file.write_text(json.dumps(record | {"noise_sigmas": 1.0}))
        assert bench.push(inputs).decision == "kept"
        assert json.loads(file.read_bytes())["rule"]["confidence"] == 0.95


BETTER = Evidence(0.02, 0.99, 0.01, 0.03, 1000)


class TestGate:
    """Each condition alone decides, and says so."""

    @pytest.mark.parametrize(
        ("change", "share_better", "errors", "sentence"),
        [
            ({}, 0.949, [], "in 94.9% of 1,000 resamplings"),
            ({"coverage": 0.54}, 0.99, [], "coverage 0.540 is below v0001's 0.600 by more than 0.05 (push.coverage_margin)"),
            ({"memorization": 0.26}, 0.99, [], "26% of its samples lie nearer to a training image"),
            (
                {"memorization_nearer": 0.91, "memorization_p": 0.009},
                0.99,
                [],
                "91% of pairs, p = 0.009 (Mann-Whitney); above 90%",
            ),
            ({"memorization_nearer": 0.91, "memorization_p": 1e-30}, 0.99, [], "p < 0.001 (Mann-Whitney)"),
            ({"memorization_nearer": 0.91, "memorization_p": 0.011}, 0.99, [], ""),
            ({"memorization_nearer": 0.89, "memorization_p": 1e-30}, 0.99, [], ""),
            ({}, 0.99, ["label 7 is gone"], "Its data were not accepted: label 7 is gone."),
            ({}, 0.95, [], ""),
            ({"coverage": 0.56}, 0.99, [], ""),
        ],
    )
    def test_beside_a_champion(self, change: dict[str, float], share_better: float, errors: list[str], sentence: str) -> None:
        opponent = Opponent("v0001", SCORES, BETTER._replace(share_better=share_better))
        verdict = judge(PushConfig(), SCORES | {"kid": 0.04} | change, opponent, errors)
        assert verdict.publish == (not sentence)
        assert sentence in verdict.reason
        assert [check.passed for check in verdict.checks].count(False) == bool(sentence)

    def test_equal_models_do_not_take_turns(self) -> None:
        equal = Opponent("v0001", SCORES, Evidence(0.0, 0.6, -0.01, 0.01, 1000))
        assert not judge(PushConfig(confidence=0.5), SCORES, equal).publish

    @pytest.mark.parametrize(
        ("kid", "publish", "words"),
        [(0.06, True, "94% of the way"), (0.51, False, "49% of the way"), (2.0, False, "-100% of the way")],
    )
    def test_the_first_model_is_held_against_floor_and_ceiling(self, kid: float, publish: bool, words: str) -> None:
        bounds = {"floor": {"kid": 0.0}, "ceiling": {"kid": 1.0}}
        verdict = judge(PushConfig(), SCORES | bounds | {"kid": kid}, None)
        assert verdict.publish == publish
        assert words in verdict.reason
        assert "50% are needed (push.first_share)" in verdict.reason

    @pytest.mark.parametrize(
        "bounds", [{}, {"floor": {"kid": 0.1}, "ceiling": None}, {"floor": {"kid": 1.0}, "ceiling": {"kid": 1.0}}]
    )
    def test_without_bounds_it_says_so(self, bounds: dict[str, Any]) -> None:
        verdict = judge(PushConfig(), SCORES | bounds, None)
        assert verdict.publish
        assert "no floor and ceiling are known" in verdict.reason


class TestDataErrors:
    @pytest.mark.parametrize(
        ("severity", "why", "found"),
        [("warning", "", []), ("error", "", ["Label 7 is gone"]), ("error", "validate.accept", [])],
    )
    def test_only_errors_that_nobody_accepted_count(self, tmp_path: Path, severity: str, why: str, found: list[str]) -> None:
        (tmp_path / "anomalies.json").write_text(json.dumps([{"severity": severity, "text": "Label 7 is gone."}]))
        (tmp_path / "comparison.json").write_text(json.dumps({"why": why}))
        assert push._data_errors(tmp_path) == found

    def test_files_that_cannot_be_read_get_a_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "anomalies.json").write_text("[]")
        with pytest.raises(ArtifactError, match=r"cannot be read: .*comparison\.json.* Run validate again"):
            push._data_errors(tmp_path)


class TestMeasure:
    @pytest.mark.heavy
    def test_the_champion_is_scored_again_by_the_candidates_measure(
        self, bench: Bench, no_load_test: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With a real evaluation: the made-up 0.0001 of the champion must give way to what it really scores."""
        monkeypatch.setattr(evaluate, "sample_in_fresh_process", sample_here)
        noisy = write_model(bench.root / "noisy", part("rest").images, noise=90)
        inputs = {
            "model": noisy,
            "evaluation": bench.evaluation(noisy, kid=0.0001),
            "validation": bench.shared / "validation",
        }
        assert bench.push(inputs).version == "v0001"
        good, dataset = bench.shared / "model", bench.shared / "dataset"
        config = EvaluateConfig(samples=300, kid_subsets=5, kid_subset_size=100, extractor="random")
        folders = {"dataset": dataset, "model": good, "work_dir": bench.root / "work"}
        scores = evaluate.run(config, **folders, out=bench.root / "evaluation")
        summary = bench.push({**inputs, "model": good, "evaluation": bench.root / "evaluation"})
        assert summary.decision == "published"
        assert summary.champion_kid is not None
        assert summary.champion_kid > scores.kid + 0.05
        details = read_manifest(bench.root / "push", "push").details
        assert details["evidence"]["difference"] == pytest.approx(summary.champion_kid - scores.kid, rel=1e-6)

    def test_an_evaluation_by_another_program_is_refused(self, bench: Bench, no_load_test: None, measured: None) -> None:
        bench.push(bench.candidate())
        before = bench.files()
        elsewhere = SCORES["provenance"] | {"code": "00"}  # type: ignore[operator]
        with pytest.raises(ArtifactError, match="made by another program than this one: code differ"):
            bench.push(bench.candidate(kid=0.01, provenance=elsewhere))
        assert bench.files() == before

    def test_damaged_features_get_a_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "sample_features.npy").write_bytes(b"nothing")
        with pytest.raises(ArtifactError, match=r"sample_features\.npy cannot be read: .* Run evaluate again"):
            rescoring.candidate_features(tmp_path)

    def test_features_of_another_width_get_a_sentence(
        self, bench: Bench, no_load_test: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench.push(bench.candidate())
        monkeypatch.setattr(rescoring, "rescored", lambda *_: (SCORES, np.zeros((10, 3), np.float32)))
        with pytest.raises(ArtifactError, match=r"features differ in width: real 8, candidate 8, champion 3\. Run evaluate"):
            bench.push(bench.candidate(kid=0.01))


class TestRefusals:
    @pytest.mark.parametrize(
        ("damage", "sentence"),
        [
            (lambda r: (r / "champion.json").write_text("{"), r"champion\.json is broken: it cannot be read"),
            (lambda r: (r / "champion.json").write_text("{}"), r"champion\.json is broken: it cannot be read"),
            (lambda r: shutil.rmtree(r / "versions" / "v0001"), "it names 'v0001', which is not in"),
            (lambda r: (r / "versions/v0001/manifest.json").unlink(), "its version v0001 is damaged"),
            (lambda r: (r / "versions/v0001/saved_model/saved_model.pb").write_bytes(b""), "does not match its digest"),
            (lambda r: redirect(r, version="../../elsewhere"), "it names '../../elsewhere'"),
            (lambda r: redirect(r, digest="0" * 64), "v0001 has digest .*, 000000000000 was published"),
        ],
    )
    def test_a_broken_champion_gets_a_sentence_and_nothing_changes(
        self, bench: Bench, no_load_test: None, damage: Callable[[Path], object], sentence: str
    ) -> None:
        bench.push(bench.candidate())
        damage(bench.registry)
        before = bench.files()
        with pytest.raises(ArtifactError, match=sentence) as caught:
            bench.push(bench.candidate(kid=0.01))
        assert "or name another push.registry." in str(caught.value)
        assert bench.files() == before

    def test_a_champion_of_other_images_is_not_compared(self, bench: Bench, no_load_test: None) -> None:
        bench.push(bench.candidate())
        model = write_model(bench.root / "larger", np.zeros((4, 28, 28, 3), np.uint8))
        inputs = {"model": model, "evaluation": bench.evaluation(model), "validation": bench.shared / "validation"}
        before = bench.files()
        with pytest.raises(ConfigError) as caught:
            bench.push(inputs)
        assert str(caught.value) == (
            f"Champion v0001 in {bench.registry} makes 8×8×1 images, this run 28×28×3. Name another push.registry."
        )
        assert bench.files() == before
        champion = registry.read_champion(bench.registry)
        assert champion is not None
        registry.check_image_size(champion, 8, 1)

    def test_an_evaluation_of_another_model_is_refused(self, bench: Bench) -> None:
        inputs = bench.candidate() | {"evaluation": bench.candidate()["evaluation"]}
        with pytest.raises(ArtifactError, match="evaluation is of another model"):
            bench.push(inputs)

    def test_a_validation_of_another_dataset_is_refused(self, bench: Bench) -> None:
        other = write_dataset(bench.root / "other", train=100)
        with pytest.raises(ArtifactError, match="validation is of another dataset"):
            bench.push(bench.candidate() | {"validation": write_validation(bench.root / "validation", other)})

    def test_a_second_push_waits_and_then_gets_a_sentence(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "LOCK_SECONDS", 0.2)
        bench.registry.mkdir()
        taken, done = threading.Event(), threading.Event()

        def hold() -> None:
            with filelock.FileLock(bench.registry / ".lock"):
                taken.set()
                done.wait(30)

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert taken.wait(30)
            with pytest.raises(ArtifactError, match=r"Another push holds .*\.lock and did not release it within 0 s"):
                bench.push(bench.candidate())
        finally:
            done.set()
            holder.join()

    def test_a_registry_that_is_a_file_gets_a_sentence(self, bench: Bench) -> None:
        bench.registry.write_text("not a folder")
        with pytest.raises(ArtifactError, match=r"Cannot lock .* Name a writable folder with push.registry"):
            bench.push(bench.candidate())

    def test_an_unreadable_decision_gets_a_sentence(self, bench: Bench, no_load_test: None, measured: None) -> None:
        bench.push(bench.candidate())
        inputs = bench.candidate(kid=0.07)
        bench.push(inputs)
        (record,) = (bench.registry / "decisions").glob(f"{read_manifest(inputs['model']).digest}.json")
        record.write_text("[]")
        with pytest.raises(ArtifactError, match="Delete it and run again"):
            bench.push(inputs)


def redirect(folder: Path, **changes: str) -> None:
    file = folder / "champion.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | changes))


class TestInterruption:
    """A push that dies at any of the three writes leaves the old champion; the next one finishes the work."""

    @pytest.mark.parametrize("where", ["new_artifact", "write_json", "write_decision"])
    def test_the_old_champion_stays_and_the_next_push_goes_on(
        self, bench: Bench, no_load_test: None, measured: None, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        bench.push(bench.candidate())
        inputs = bench.candidate(kid=0.01)
        owner = {"new_artifact": publish, "write_json": registry, "write_decision": push}[where]

        def die(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(owner, where, die)
            with pytest.raises(KeyboardInterrupt):
                bench.push(inputs)
        champion = registry.read_champion(bench.registry)
        assert champion is not None
        assert champion.version == ("v0002" if where == "write_decision" else "v0001")
        summary = bench.push(inputs)
        assert summary.version == "v0002"
        assert summary.decision == ("unchanged" if where == "write_decision" else "published")
        assert sorted(folder.name for folder in (bench.registry / "versions").iterdir()) == ["v0001", "v0002"]


class TestUnchangedIsCheap:
    def test_it_imports_no_tensorflow(self, bench: Bench, no_load_test: None) -> None:
        """Run as the pipeline does, in a process of its own: every cached second run comes through here."""
        inputs = bench.candidate()
        bench.push(inputs)
        program = (
            "import sys, pathlib, time\n"
            "from components.push.config import PushConfig\n"
            "from components.push.run import run\n"
            "names = ('registry', 'model', 'evaluation', 'validation', 'out'); start = time.monotonic()\n"
            "summary = run(PushConfig(), **dict(zip(names, map(pathlib.Path, sys.argv[1:]))))\n"
            "heavy = {'tensorflow', 'keras', 'scipy', 'numpy', 'jinja2'} & set(sys.modules)\n"
            "print(summary.decision, sorted(heavy), time.monotonic() - start < 1.0)"
        )
        paths = [
            bench.registry,
            *(inputs[name] for name in ("model", "evaluation", "validation")),
            bench.root / "again",
        ]
        result = subprocess.run([sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == "unchanged [] True"


class TestLoadTest:
    @pytest.mark.parametrize(
        ("fault", "sentence"),
        [
            ("float", "generate returns float32 [4, 8, 8, 1] instead of uint8 [4, 8, 8, 1]."),
            ("size", "generate returns uint8 [4, 8, 7, 1] instead of uint8 [4, 8, 8, 1]."),
            ("random", "generate gives different images for the same seed."),
            ("constant", "generate gives the same images for different seeds."),
            ("latents", "It has no signature generate_from_latents."),
            ("dark", "generate returns values from 0 to 1; images have values of 0 to 255."),
            ("one", "generate returns uint8 [2, 8, 8, 1] instead of uint8 [1, 8, 8, 1]."),
            ("", ""),
        ],
    )
    def test_every_broken_promise_is_named(self, tmp_path: Path, fault: str, sentence: str) -> None:
        save_generator(tmp_path / "model", part("rest").images, fault=fault)
        faults = load_test.faults(tf.saved_model.load(str(tmp_path / "model")), 8, 1, LATENTS)
        assert faults[:1] == ([sentence] if sentence else [])

    def test_a_model_with_labels_is_tested_on_labels_it_knows(self, tmp_path: Path) -> None:
        """As train makes it: without labels its signatures would not even run."""
        made = Generator(ImageShape(8, 1, 3), TrainConfig(conditional=True, latents=4, generator_channels=2), [5, 0, 5])
        made.save(tmp_path / "model")
        loaded = tf.saved_model.load(str(tmp_path / "model"))
        assert load_test.takes_labels(loaded)
        assert load_test._labels(loaded) == [0, 2]
        assert load_test.faults(loaded, 8, 1, 4) == []
        del made.functions["generate_labels"]
        made.save(tmp_path / "without")
        without = tf.saved_model.load(str(tmp_path / "without"))
        assert load_test.faults(without, 8, 1, 4) == ["It has no signature generate_labels."]

    def test_a_model_that_fails_is_not_published(self, bench: Bench) -> None:
        """In the real, fresh process."""
        model = write_model(bench.root / "broken", part("rest").images, fault="random")
        inputs = {"model": model, "evaluation": bench.evaluation(model), "validation": bench.shared / "validation"}
        with pytest.raises(ArtifactError) as caught:
            bench.push(inputs)
        assert str(caught.value) == (
            "The model failed the load test, nothing was published: "
            "generate gives different images for the same seed. Run train again."
        )
        assert not list((bench.registry / "versions").glob("*"))
        assert registry.read_champion(bench.registry) is None

    def test_our_code_cannot_be_imported_in_it(self, tmp_path: Path) -> None:
        """Even where the project is installed: a stand-in for TensorFlow tries to import it."""
        (tmp_path / "tensorflow.py").write_text("import components")
        program = publish.LOAD_TEST.read_text()
        (tmp_path / "load_test.py").write_text(program)
        result = subprocess.run([sys.executable, str(tmp_path / "load_test.py")], capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert "import of components halted" in result.stderr


class TestModelCard:
    def test_it_tells_data_training_scores_limits_and_use(self, bench: Bench, no_load_test: None) -> None:
        summary = bench.push(bench.candidate())
        card = (Path(summary.uri) / "model_card.md").read_text()
        for text in (
            "# Generator v0001",
            "Source: `digits`",
            "900 for training, 300 held out",
            f"| `train.latents` | `{LATENTS}` |",
            "| KID | 0.06000 ± 0.00600 | 0 |",
            "| Classes reached | 10 of 10 | 10 |",
            "tells 98.0 % of the held-out images right",
            "compare only with numbers of the same extractor",
            "first model of this registry",
            "wgan-pipeline generate",
            'tf.saved_model.load("v0001/saved_model")',
        ):
            assert text in card
        assert "{{" not in card
        assert "None" not in card

    def test_the_page_has_the_same_fields_and_needs_nothing_else(self, bench: Bench, no_load_test: None) -> None:
        summary = bench.push(bench.candidate())
        page, card = ((Path(summary.uri) / f"model_card.{ending}").read_text() for ending in ("html", "md"))
        for heading in ("Model details", "Model parameters", "Quantitative analysis", "Considerations"):
            assert f"<h2>{heading}</h2>" in page
            assert f"## {heading}\n" in card
        assert f'src="data:image/png;base64,{base64.b64encode(b"a grid").decode()}"' in page
        assert '<th scope="row">KID</th><td>0.06000 ± 0.00600</td><td>0</td>' in page
        assert "http" not in page
        assert "None" not in page

    def test_names_in_the_page_are_no_markup(self, bench: Bench) -> None:
        inputs = bench.candidate()
        evaluation = read_manifest(inputs["evaluation"])
        hostile = evaluation.details["dataset"] | {"label_names": ["<script>alert(1)</script>"], "source": "images:<b>"}
        named = evaluation.model_copy(update={"details": {"dataset": hostile}})
        page = model_card_html("v0001", read_manifest(inputs["model"]), named, SCORES, "<i>", b"")
        assert "&lt;script&gt;" in page
        assert "<script>" not in page
        assert "<b>" not in page
        assert "<i>" not in page

    def test_it_serves_data_without_labels(self, bench: Bench, no_load_test: None) -> None:
        extractor = {"kind": "random", "digest": "ab" * 32, "accuracy": None, "features": 64}
        provenance = SCORES["provenance"] | {"extractor": extractor}  # type: ignore[operator]
        summary = bench.push(bench.candidate(modes=None, provenance=provenance))
        card = (Path(summary.uri) / "model_card.md").read_text()
        assert "fixed random convolutions" in card
        assert "Classes reached" not in card
