"""Scores of generators with known faults, their provenance, and invalid inputs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError, ConfigError, DataRejectedError
from components.common.store import Folder
from components.dataset.records import ImageSet
from components.evaluate import baselines, useless
from components.evaluate import run as evaluate
from components.evaluate.config import EvaluateConfig
from components.evaluate.features import extractor, extractor_training
from components.evaluate.features.extractor import Extractor
from components.evaluate.provenance import comparable, provenance
from components.evaluate.scores import EvaluateSummary, Reference, Samples, check_counts, load_reference, measure, modes
from tests.support.datasets.tiny_artifacts import HELD_OUT, TRAIN, Images, part, sample_here, write_dataset, write_model

CONFIG = EvaluateConfig(samples=600, kid_subsets=10, kid_subset_size=200)


class Evaluated:
    """An evaluation of a generator that returns unseen real digits, and its folders."""

    def __init__(self, root: Path) -> None:
        self.work_dir = root / "work"
        self.dataset = write_dataset(root / "dataset")
        self.model = write_model(root / "model", part("rest").images)
        self.out = root / "evaluation"
        self.summary = evaluate.run(CONFIG, dataset=self.dataset, model=self.model, work_dir=self.work_dir, out=self.out)
        self.scores = json.loads((self.out / "scores.json").read_bytes())
        self.extractor = extractor.load(self.out / "extractor")
        self.reference = load_reference(self.out, TRAIN)

    def score(self, images: Images) -> EvaluateSummary:
        """Score images like `run`, but without a SavedModel."""
        return measure(self.reference, Samples(self.extractor.features(images)), CONFIG, {}).summary


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    return Evaluated(tmp_path_factory.mktemp("evaluate"))


class TestArtifact:
    def test_unseen_real_digits_have_good_scores(self, evaluated: Evaluated) -> None:
        summary = evaluated.summary
        assert abs(summary.kid) < 0.01
        assert 0 < summary.kid_std < 0.01
        assert summary.fid < 1.3  # 600 samples: KID, which has no such bias, is near 0
        assert min(summary.precision, summary.recall, summary.density) > 0.9
        assert summary.coverage > 0.6
        assert summary.memorization < 0.03

    def test_scores_and_manifest_of_the_artifact(self, evaluated: Evaluated) -> None:
        manifest = read_manifest(evaluated.out, "evaluation")
        assert manifest.inputs == {
            "dataset": read_manifest(evaluated.dataset).digest,
            "model": read_manifest(evaluated.model).digest,
        }
        assert manifest.counts == {"samples": 600, "real": TRAIN, "train": TRAIN, "eval": HELD_OUT}
        assert manifest.details["scores"] == evaluated.scores
        assert {**evaluated.summary.model_dump(mode="json"), "modes": evaluated.scores["modes"]} == evaluated.scores

    def test_all_classes_are_covered(self, evaluated: Evaluated) -> None:
        assert evaluated.scores["modes"]["covered"] == evaluated.scores["modes"]["of"] == 10
        assert sum(evaluated.scores["modes"]["shares"].values()) == pytest.approx(1.0)

    def test_the_grids_show_samples_and_their_neighbours(self, evaluated: Evaluated) -> None:
        with Image.open(evaluated.out / "samples.png") as first, Image.open(evaluated.out / "neighbours.png") as second:
            samples, neighbours = np.asarray(first), np.asarray(second)
        assert samples.shape == (8 * 49 + 1, 8 * 49 + 1)
        assert neighbours.shape == (CONFIG.neighbour_rows * 49 + 1, 6 * 49 + 1)
        assert np.array_equal(neighbours[:49, :49], samples[:49, :49])
        nearest = neighbours[1:49:6, 50:98:6]
        assert (part("train").images[..., 0] == nearest).all(axis=(1, 2)).any()

    def test_provenance(self, evaluated: Evaluated) -> None:
        found = evaluated.summary.provenance
        assert found["extractor"]["kind"] == "trained"
        assert found["extractor"]["accuracy"] > 0.95
        assert found["extractor"]["digest"] == evaluated.extractor.digest
        dataset_digest = read_manifest(evaluated.dataset).digest
        assert found["real"] == {"split": "train", "count": TRAIN, "held_out": HELD_OUT, "dataset": dataset_digest}
        assert (found["samples"], found["seed"], found["weights"]) == (600, 0, "ema")
        assert found["resize"] == "none: native 8×8"

    def test_no_file_needs_pickle(self, evaluated: Evaluated) -> None:
        assert evaluated.reference.train.shape == (TRAIN, 65)
        assert evaluated.reference.held_out.shape == (HELD_OUT, 65)
        assert not list(evaluated.out.rglob("*.pkl"))


class TestPlantedFaults:
    def test_more_noise_raises_fid_and_kid(self, evaluated: Evaluated) -> None:
        images, generator = part("rest").images, np.random.default_rng(0)
        scores = []
        for level in (0, 60, 120, 240):
            noise = generator.integers(-level, level + 1, images.shape)
            scores.append(evaluated.score(np.clip(images + noise, 0, 255).astype(np.uint8)))
        for better, worse in itertools.pairwise(scores):
            assert better.kid < worse.kid
            assert better.fid < worse.fid

    def test_scores_are_between_floor_and_ceiling(self, evaluated: Evaluated) -> None:
        summary = evaluated.summary
        floor, ceiling, intervals = summary.floor, summary.ceiling, summary.intervals
        assert floor is not None
        assert ceiling is not None
        assert intervals is not None
        assert floor["images"] == len(evaluated.reference.held_out)
        assert ceiling["images"] == CONFIG.samples
        assert abs(floor["kid"]) < 0.02
        assert ceiling["kid"] > 20 * abs(summary.kid)
        assert ceiling["fid"] > 20 * max(floor["fid"], summary.fid)
        assert ceiling["precision"] == ceiling["coverage"] == 0.0
        assert min(floor["precision"], floor["recall"]) > 0.9
        for name, value in (("fid", summary.fid), ("kid", summary.kid)):
            interval = intervals[name]
            assert interval is not None
            assert interval[0] <= value <= interval[1]
            assert interval[1] - interval[0] < 0.1 * (ceiling[name] - floor[name])
        assert {"floor", "ceiling", "intervals"} <= evaluated.scores.keys()

    def test_the_features_tell_useless_images_from_real_ones(self, evaluated: Evaluated) -> None:
        measured = evaluated.summary.useless
        assert measured is not None
        assert list(measured) == list(useless.SETS)
        assert useless.not_told_apart(measured) == []
        assert useless.trust_sentence(evaluated.scores).startswith(
            "These features tell all 8 useless sets from real images: noise, "
        )
        blind = {"useless": measured | {"noise": {"precision": 0.5, "recall": 0.2, "coverage": 0.3}}}
        assert "not tell all useless images from real ones: noise (precision 0.50, recall 0.20," in useless.trust_sentence(
            blind
        )
        assert min(scores["kid"] for scores in measured.values()) > 10 * abs(evaluated.summary.kid)

    def test_baselines_are_cached_by_digest(self, evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(baselines, "measure_features", lambda *_: pytest.fail("measured again"))

        def measured(digest: str) -> dict[str, Any]:
            given = (evaluated.reference, part("train").images, evaluated.extractor, digest, Folder(evaluated.work_dir))
            return baselines.measure_baselines(CONFIG, *given)

        summary = evaluated.summary
        cached = measured(read_manifest(evaluated.dataset).digest)
        assert cached == {"floor": summary.floor, "ceiling": summary.ceiling, "useless": summary.useless}
        with pytest.raises(pytest.fail.Exception, match="measured again"):
            measured("other data")

    def test_a_constant_generator_is_scored(self, evaluated: Evaluated) -> None:
        constant = evaluated.score(np.full((600, 8, 8, 1), 128, np.uint8))
        assert constant.recall == constant.coverage == 0.0
        assert constant.kid > 0.3
        assert np.isfinite([constant.fid, constant.kid, constant.kid_std]).all()

    def test_a_dropped_class_is_not_covered(self) -> None:
        real = np.repeat([0, 1, 2], 100)
        found = modes(real, np.repeat([0, 1, 2], [150, 147, 3]), ["zero", "one"])
        assert found == {"covered": 2, "of": 3, "shares": {"zero": 0.5, "one": 0.49, "2": 0.01}}


class TestRescore:
    def test_the_same_model_has_the_same_scores(self, evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(evaluate, "sample_in_fresh_process", sample_here)
        again = evaluate.rescore(evaluated.out, evaluated.model)
        assert again.summary == evaluated.summary
        np.testing.assert_array_equal(again.features, np.load(evaluated.out / "sample_features.npy"))

    def test_a_model_with_other_image_sizes_is_refused(self, evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(evaluate, "sample_in_fresh_process", lambda *_: np.zeros((600, 16, 16, 1), np.uint8))
        with pytest.raises(ArtifactError, match="generates images of 16×16×1, the dataset has 8×8×1"):
            evaluate.rescore(evaluated.out, evaluated.model)

    def test_a_damaged_evaluation_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"The features in .* cannot be read"):
            load_reference(tmp_path, 10)
        with pytest.raises(ArtifactError, match="does not contain an extractor"):
            extractor.load(tmp_path)


class TestExtractor:
    def test_it_is_trained_once_per_dataset(self, evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
        def again(*_: Any) -> Extractor:
            raise AssertionError("trained again")

        monkeypatch.setattr(extractor_training, "train_extractor", again)
        train, held_out = part("train"), part("eval")
        digest = read_manifest(evaluated.dataset).digest
        arguments = (evaluated.dataset, digest, train, held_out, Folder(evaluated.work_dir))
        assert extractor_training.extractor_for(CONFIG, *arguments).digest == evaluated.extractor.digest
        other = CONFIG.model_copy(update={"extractor_epochs": 3})
        with pytest.raises(AssertionError, match="trained again"):
            extractor_training.extractor_for(other, *arguments)

    def test_training_is_deterministic(self, evaluated: Evaluated) -> None:
        assert extractor_training.train_extractor(part("train"), part("eval"), 12).digest == evaluated.extractor.digest

    def test_save_and_load(self, evaluated: Evaluated, tmp_path: Path) -> None:
        evaluated.extractor.save(tmp_path)
        loaded = extractor.load(tmp_path)
        assert loaded.digest == evaluated.extractor.digest
        images = part("eval").images
        assert np.array_equal(loaded.features(images), evaluated.extractor.features(images))

    def test_features_are_whitened_and_bounded(self, evaluated: Evaluated) -> None:
        whitened, surprise = np.split(evaluated.reference.train, [extractor.ACTIVATIONS], axis=1)
        assert np.abs(whitened.mean(axis=0)).max() < 0.05
        variances = np.linalg.eigvalsh(np.cov(whitened, rowvar=False))
        assert 0.5 < variances[-20:].min() < variances.max() < 1.2
        noise = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1)).astype(np.uint8)
        features = evaluated.extractor.features(noise)
        assert 3 < np.abs(features).max() <= extractor.BOUND
        assert 0 <= 10 * surprise.mean() < features[:, -1].mean()  # it is -log p(real), and not whitened

    def test_one_changed_weight_changes_the_digest(self, evaluated: Evaluated) -> None:
        weights = [array.copy() for array in evaluated.extractor.weights]
        weights[0].flat[0] += 1e-6
        assert evaluated.extractor._replace(weights=tuple(weights)).digest != evaluated.extractor.digest

    @pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 3), (28, 1), (32, 3), (64, 3), (128, 3)])
    def test_the_random_extractor_supports_all_sizes(self, size: int, channels: int) -> None:
        images = np.random.default_rng(0).integers(0, 256, (6, size, size, channels)).astype(np.uint8)
        made = extractor_training.random_extractor(images)
        assert made.features(images).shape == (6, 64)
        assert made.digest == extractor_training.random_extractor(images).digest

    def test_the_random_extractor_distinguishes_good_from_bad(self) -> None:
        train, held_out, rest = (part(name).images for name in ("train", "eval", "rest"))
        made = extractor_training.random_extractor(train)
        reference = Reference(made.features(train), made.features(held_out), TRAIN)
        noise = np.random.default_rng(0).integers(-120, 121, rest.shape)
        good, bad = (
            measure(reference, Samples(made.features(images)), CONFIG, {}).summary
            for images in (rest, np.clip(rest + noise, 0, 255).astype(np.uint8))
        )
        assert good.kid + 5 * good.kid_std < bad.kid

    def test_images_without_labels_are_one_class(self) -> None:
        train, held_out = (part(name)._replace(labels=np.full(len(part(name).images), -1)) for name in ("train", "eval"))
        made = extractor_training.train_extractor(train, held_out, 8)
        assert (made.settings.classes, made.settings.held_out_accuracy) == (0, None)
        assert made.settings.told_apart is not None
        assert made.settings.told_apart > 0.7

    def test_the_last_feature_is_how_sure_it_is_that_an_image_is_damaged(self, evaluated: Evaluated) -> None:
        images = part("eval").images
        features, scores = evaluated.extractor.features_and_scores(images)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        real = shares[:, : evaluated.extractor.settings.classes].sum(axis=1) / shares.sum(axis=1)
        np.testing.assert_allclose(features[:, -1], -extractor.BOUND * np.tanh(np.log(real) / extractor.BOUND), atol=1e-4)
        shifted = useless.make("shifted images", images, len(images), np.random.default_rng(0))
        assert np.median(evaluated.extractor.features(shifted)[:, -1]) > 10 * np.median(features[:, -1])

    @pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (48, 3), (64, 3), (100, 3)])
    def test_all_sizes_are_trained_on_and_saved(self, size: int, channels: int, tmp_path: Path) -> None:
        images = np.random.default_rng(0).integers(0, 256, (60, size, size, channels)).astype(np.uint8)
        few = ImageSet(images, np.full(60, -1), tuple(map(str, range(60))))
        made = extractor_training.train_extractor(few, few, 1)
        features = made.features(images)
        made.save(tmp_path)
        np.testing.assert_array_equal(extractor.load(tmp_path).features(images), features)
        assert (features.shape, bool(np.isfinite(features).all())) == ((60, 65), True)


class TestProvenance:
    def test_differences_are_named(self, evaluated: Evaluated) -> None:
        ours = evaluated.summary.provenance
        assert comparable(ours, json.loads(json.dumps(ours))) == []
        other = json.loads(json.dumps(ours)) | {"seed": 1, "resize": "bicubic"}
        other["extractor"] |= {"digest": "00", "accuracy": 0.5}
        del other["real"]["dataset"]
        assert comparable(ours, other) == ["extractor.digest", "real.dataset", "resize", "seed"]
        assert comparable(other, ours) == comparable(ours, other)

    @pytest.mark.parametrize("key", ["samples", "seed", "neighbours_k", "kid_subsets", "kid_subset_size"])
    def test_it_contains_each_setting_that_affects_scores(self, evaluated: Evaluated, key: str) -> None:
        other = CONFIG.model_copy(update={key: getattr(CONFIG, key) + 1})
        ours, theirs = (provenance(config, evaluated.extractor, "d", 10, 5) for config in (CONFIG, other))
        assert comparable(ours, theirs) == [key]


class TestRefusals:
    def test_a_model_with_another_size_is_refused_first(self, evaluated: Evaluated, tmp_path: Path) -> None:
        model = write_model(tmp_path / "model", np.zeros((4, 16, 16, 3), np.uint8))
        with pytest.raises(ArtifactError, match="model generates images of 16×16×3, the dataset has 8×8×1"):
            evaluate.run(CONFIG, dataset=evaluated.dataset, model=model, work_dir=tmp_path / "work", out=tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "work").exists()

    @pytest.mark.parametrize(
        ("train", "held_out", "config", "error", "sentence"),
        [
            (19, 50, {}, DataRejectedError, "The dataset has 19 training images; scores need at least 20."),
            (500, 9, {}, DataRejectedError, "The dataset has 9 held-out images; memorization needs at least 10."),
            (30, 10, {"neighbours_k": 30}, ConfigError, "Use evaluate.neighbours_k = 29 or less."),
            (900, 99, {"neighbours_k": 100, "samples": 100}, ConfigError, "Use evaluate.neighbours_k = 99 or less."),
        ],
    )
    def test_too_few_images_are_refused(
        self, train: int, held_out: int, config: dict[str, int], error: type[Exception], sentence: str
    ) -> None:
        with pytest.raises(error) as caught:
            check_counts(EvaluateConfig(**config), train, held_out)
        assert sentence in str(caught.value)

    def test_the_smallest_accepted_sets_can_be_scored(self) -> None:
        check_counts(EvaluateConfig(samples=100), 20, 10)
        features = np.random.default_rng(0).standard_normal((130, 64)).astype(np.float32)
        reference = Reference(features[:20], features[20:30], 20)
        summary = measure(reference, Samples(features[30:]), EvaluateConfig(samples=100), {}).summary
        assert np.isfinite([value for value in summary.model_dump().values() if isinstance(value, float)]).all()
        assert summary.intervals is not None
        assert np.isfinite(list(summary.intervals.values())).all()
