"""External extractors: SavedModels of several forms, InceptionV3, and errors for unusable ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from pydantic import ValidationError

from components.common.errors import ArtifactError, ConfigError
from components.evaluate import run as evaluate
from components.evaluate.config import EvaluateConfig
from components.evaluate.features import extractor as extractors
from components.evaluate.features.external import ExternalExtractor
from components.evaluate.features.extractor_training import external_extractor
from components.evaluate.provenance import comparable
from tests.support.datasets.tiny_artifacts import part, sample_here, write_dataset, write_model

SIZE, WIDTH = 12, 6


def save(folder: Path, *, size: int | None = SIZE, seed: int = 0, dtype: Any = tf.float32, form: str = "") -> Path:
    """Save a tiny extractor that projects pixels; some `form`s are unusable."""
    module: Any = tf.Module()
    side = size or SIZE
    weights = np.random.default_rng(seed).standard_normal((side * side * 3, WIDTH)).astype(np.float32)
    module.weights = tf.Variable(weights)

    def project(images: Any) -> dict[str, Any]:
        features = tf.reshape(tf.cast(images, tf.float32), [-1, side * side * 3]) @ module.weights / 255.0
        if form == "nan":
            features = features + np.nan
        if form == "constant":
            features = tf.zeros_like(features)
        if form == "pool":
            features = features[:, None, None, :]
        if form == "map":
            features = tf.reshape(features, [-1, 2, 3, 1])
        return {"a": features, "b": features} if form == "two" else {"output": features}

    shape = [None, side * side * 3] if form == "flat" else [None, size, size, 1 if form == "grey" else 3]
    module.project = tf.function(project, input_signature=[tf.TensorSpec(shape, dtype, "pixels")])
    tf.saved_model.save(module, str(folder), signatures=module.project)
    return folder


def load(folder: Path, channels: int = 1, **changed: Any) -> ExternalExtractor:
    return external_extractor(EvaluateConfig(extractor=f"savedmodel:{folder}", **changed), 8, channels)


def grey(count: int = 5) -> npt.NDArray[np.uint8]:
    return part("train").images[:count]


@pytest.mark.parametrize(
    ("range_", "factor", "offset"), [("0..255", 1.0, 0.0), ("0..1", 1 / 255, 0.0), ("-1..1", 2 / 255, -1.0)]
)
def test_images_are_resized_with_antialiasing_and_scaled(tmp_path: Path, range_: Any, factor: float, offset: float) -> None:
    made = load(save(tmp_path / "x"), extractor_range=range_)
    weights = np.random.default_rng(0).standard_normal((SIZE * SIZE * 3, WIDTH)).astype(np.float32)
    larger = tf.image.resize(np.repeat(grey(), 3, axis=3).astype(np.float32), (SIZE, SIZE), antialias=True).numpy()
    expected = (larger * factor + offset).reshape(5, -1) @ weights / 255.0
    np.testing.assert_allclose(made.features(grey()), expected, rtol=1e-4, atol=1e-5)
    assert made.width == WIDTH
    assert made.resize == f"bilinear, antialiased, to 12×12, values {range_.replace('..', ' to ')}"


def test_a_model_for_any_size_gets_images_without_resize(tmp_path: Path) -> None:
    module: Any = tf.Module()
    spec = tf.TensorSpec([None, None, None, 3], tf.uint8, "pixels")
    module.mean = tf.function(lambda pixels: {"m": tf.reduce_mean(tf.cast(pixels, tf.float32), [1, 2])}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "x"), signatures=module.mean)
    made = load(tmp_path / "x")
    assert made.resize == "none: native 8×8, values 0 to 255"
    np.testing.assert_allclose(made.features(grey())[:, 0], grey().mean(axis=(1, 2, 3)), rtol=1e-5)


def test_uint8_input_and_pooled_output_of_rank_four(tmp_path: Path) -> None:
    assert load(save(tmp_path / "x", form="pool", dtype=tf.uint8)).features(grey()).shape == (5, WIDTH)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ("flat", r"takes float32 \[None, 432\], not square images"),
        ("grey", r"takes float32 \[None, 12, 12, 1\], not square images"),
        ("two", r"returns 2 outputs \(a, b\)\. Name one of them `features`"),
        ("map", r"returns \[1, 2, 3, 1\], not \[N, D\]"),
        ("nan", "returns features that are not finite"),
    ],
)
def test_unusable_models_are_refused(tmp_path: Path, form: str, sentence: str) -> None:
    with pytest.raises((ConfigError, ArtifactError), match=sentence):
        load(save(tmp_path / "x", form=form))


def test_equal_features_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="returns the same features for all images"):
        load(save(tmp_path / "x", form="constant")).features(grey())


def test_a_missing_or_broken_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"saved_model\.pb does not exist"):
        load(tmp_path / "nothing")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load(tmp_path / "broken")


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    first = load(save(tmp_path / "x"))
    with pytest.raises(ArtifactError, match=r"has digest .*: it has changed"):
        load(tmp_path / "x", extractor_digest="0" * 64)
    assert load(tmp_path / "x", extractor_digest=first.settings.digest).digest == first.digest
    (tmp_path / "saved").mkdir()
    first.save(tmp_path / "saved")
    again = extractors.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.features(grey()), first.features(grey()))
    save(tmp_path / "x", seed=1)
    with pytest.raises(ArtifactError, match="it has changed"):
        extractors.load(tmp_path / "saved").features(grey())


def test_the_digest_does_not_depend_on_the_location(tmp_path: Path) -> None:
    one = load(save(tmp_path / "x"))
    (tmp_path / "x").rename(tmp_path / "y")
    assert load(tmp_path / "y").digest == one.digest
    assert load(tmp_path / "y", extractor_range="0..1").digest != one.digest
    assert load(save(tmp_path / "z", seed=1)).digest != one.digest


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"extractor": "inception"}, r"needs extractor_weights = FILE, or download_weights = true"),
        ({"extractor": "savedmodel:"}, r"use auto, classifier, random, inception or savedmodel:PATH"),
        ({"extractor": "vgg"}, r"use auto, classifier"),
        ({"extractor": "random", "extractor_weights": "x.h5"}, r'need extractor = "inception"'),
        ({"extractor_digest": "00"}, r'extractor_digest needs extractor = "inception" or "savedmodel:PATH", not "auto"'),
    ],
)
def test_conflicting_keys(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        EvaluateConfig(**keys)


def test_rescoring_with_a_saved_model_gives_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "sample_in_fresh_process", sample_here)
    dataset, model = write_dataset(tmp_path / "dataset"), write_model(tmp_path / "model", part("rest").images)
    config = EvaluateConfig(
        samples=300, kid_subsets=10, kid_subset_size=100, extractor=f"savedmodel:{save(tmp_path / 'x')}", extractor_range="0..1"
    )
    folders = {"dataset": dataset, "work_dir": tmp_path / "work"}
    summary = evaluate.run(config, model=model, out=tmp_path / "out", **folders)
    origin = summary.provenance
    assert (origin["extractor"]["kind"], origin["extractor"]["features"]) == ("savedmodel", WIDTH)
    assert origin["resize"] == "bilinear, antialiased, to 12×12, values 0 to 1"
    assert "classes_covered" not in summary.scores
    assert summary.ceiling is not None
    assert summary.fid < 0.2 * summary.ceiling["fid"]
    again = evaluate.rescore(tmp_path / "out", model)
    assert again.summary == summary
    other = evaluate.run(EvaluateConfig(samples=300, extractor="random"), model=model, out=tmp_path / "other", **folders)
    assert {"extractor.digest", "extractor.kind", "resize"} <= set(comparable(origin, other.provenance))
    save(tmp_path / "x", seed=1)
    with pytest.raises(ArtifactError, match="it has changed"):
        evaluate.rescore(tmp_path / "out", model)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # from Keras when it saves weights
def test_inception_with_weights_from_a_file(tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    model = keras.applications.InceptionV3(include_top=False, pooling="avg", weights=None, input_shape=(299, 299, 3))
    model.save_weights(tmp_path / "w.weights.h5")
    config = EvaluateConfig(extractor="inception", extractor_weights=str(tmp_path / "w.weights.h5"))
    made = external_extractor(config, 8, 1)
    assert made.width == 2048
    assert made.resize == "bilinear, antialiased, to 299×299, values -1 to 1"
    larger = tf.image.resize(np.repeat(grey(2), 3, axis=3).astype(np.float32), (299, 299), antialias=True) / 127.5 - 1.0
    np.testing.assert_allclose(made.features(grey(2)), model(larger, training=False).numpy(), rtol=1e-4, atol=1e-5)
    for content in (b"", b"no weights"):
        (tmp_path / "bad.weights.h5").write_bytes(content)
        bad = EvaluateConfig(extractor="inception", extractor_weights=str(tmp_path / "bad.weights.h5"))
        with pytest.raises(ConfigError, match="does not contain weights of InceptionV3"):
            external_extractor(bad, 8, 1)
    small = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    small.save_weights(tmp_path / "small.weights.h5")
    with pytest.raises(ConfigError, match="does not contain weights of InceptionV3"):
        external_extractor(EvaluateConfig(extractor="inception", extractor_weights=str(tmp_path / "small.weights.h5")), 8, 1)
    with pytest.raises(ConfigError, match="does not exist"):
        external_extractor(EvaluateConfig(extractor="inception", extractor_weights=str(tmp_path / "gone.h5")), 8, 1)
