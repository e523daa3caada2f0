"""External extractors: SavedModels of several forms, InceptionV3, and errors for unusable ones."""

from __future__ import annotations

import hashlib
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
        ({"extractor": "savedmodel:"}, "use default, inception or savedmodel:PATH"),
        ({"extractor": "vgg"}, "use default, inception or savedmodel:PATH"),
        ({"extractor": "default", "extractor_weights": "x.h5"}, r'need extractor = "inception"'),
        ({"extractor_digest": "00"}, r'extractor_digest needs extractor = "inception" or "savedmodel:PATH", not "default"'),
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
    other = evaluate.run(EvaluateConfig(samples=300, extractor_epochs=1), model=model, out=tmp_path / "other", **folders)
    assert {"extractor.digest", "extractor.kind", "resize"} <= set(comparable(origin, other.provenance))
    save(tmp_path / "x", seed=1)
    with pytest.raises(ArtifactError, match="it has changed"):
        evaluate.rescore(tmp_path / "out", model)


def write_graph(file: Path, kernel: npt.NDArray[np.float32], statistics: npt.NDArray[np.float32]) -> Path:
    """Write a small graph with the names, the resize and the old operations of the Inception graph of 2015."""
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        decoded = v1.placeholder(tf.uint8, [None, None, 3], "DecodeJpeg")
        batch = tf.expand_dims(tf.cast(decoded, tf.float32, "Cast"), 0, "ExpandDims")
        resized = v1.image.resize_bilinear(batch, [SIZE, SIZE], name="ResizeBilinear")
        mapped = tf.nn.conv2d((resized - 128.0) * (1 / 128), kernel, 1, "SAME", name="conv")
        names = [tf.constant(row, name=name).op.name for name, row in zip(("m", "v", "b", "g"), statistics, strict=True)]
        old = graph.as_graph_def()
    node = old.node.add(name="batchnorm", op="BatchNormWithGlobalNormalization", input=[mapped.op.name, *names])
    node.attr["T"].type = tf.float32.as_datatype_enum
    node.attr["variance_epsilon"].f, node.attr["scale_after_normalization"].b = 0.001, True
    pool = old.node.add(name="pool_3", op="AvgPool", input=["batchnorm"])
    pool.attr["T"].type, pool.attr["padding"].s = tf.float32.as_datatype_enum, b"VALID"
    for name in ("ksize", "strides"):
        pool.attr[name].list.i.extend([1, SIZE, SIZE, 1])
    old.versions.producer = 8
    file.write_bytes(old.SerializeToString())
    return file


def test_the_graph_of_published_fids_resizes_by_itself(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    kernel = generator.standard_normal((3, 3, 3, WIDTH)).astype(np.float32)
    statistics = generator.uniform(0.5, 1.5, (4, WIDTH)).astype(np.float32)
    file = write_graph(tmp_path / "classify_image_graph_def.pb", kernel, statistics)
    made = external_extractor(EvaluateConfig(extractor="inception", extractor_weights=str(file)), 8, 1)
    assert made.resize == "bilinear, not antialiased, to 299×299, by the network itself, values 0 to 255"
    assert (made.settings.kind, made.width) == ("inception-2015", WIDTH)
    assert made.settings.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    rgb = np.repeat(grey(), 3, axis=3).astype(np.float32)
    at = np.arange(SIZE) * 8 / SIZE  # TensorFlow 1 puts pixel i at i, not at i + 1/2
    low, share = np.floor(at).astype(int), (at % 1)[:, None, None]
    high = np.minimum(low + 1, 7)
    rows = rgb[:, low] * (1 - share) + rgb[:, high] * share
    resized = rows[:, :, low] * (1 - share[:, 0]) + rows[:, :, high] * share[:, 0]
    mapped = tf.nn.conv2d(((resized - 128) / 128).astype(np.float32), kernel, 1, "SAME").numpy()
    mean, variance, offset, scale = statistics
    expected = ((mapped - mean) / np.sqrt(variance + 0.001) * scale + offset).mean(axis=(1, 2))
    np.testing.assert_allclose(made.features(grey()), expected, rtol=1e-4, atol=1e-4)
    for content in (b"not a graph", tf.compat.v1.GraphDef().SerializeToString()):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match="is not the Inception graph of 2015"):
            external_extractor(EvaluateConfig(extractor="inception", extractor_weights=str(file)), 8, 1)


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
