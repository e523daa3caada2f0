"""Scores of folders, archives, arrays, datasets and published statistics, against reference values, and bad input."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.common.artifacts import new_artifact
from components.dataset.records import Record, encode_example, shard_name, write_tfrecord
from components.evaluate.config import EvaluateConfig
from components.evaluate.metrics import table
from components.ingest.config import IngestConfig
from components.score.run import Options, score
from tests.support.command_line import run
from tests.support.datasets.tiny_artifacts import Images, part
from tests.support.report_runs import parsed

COUNT, HELD_OUT, WIDTH = 2000, 300, 64


def reference_features(seed: int, count: int, shift: float, scale: float) -> np.ndarray:
    """The features for which torch-fidelity 0.4.0 and SciPy gave the values below."""
    generator = np.random.default_rng(seed)
    latents = generator.standard_normal((count, 16))
    mixing = np.random.default_rng(1234).standard_normal((16, WIDTH)) / 4
    noise = 0.5 * generator.standard_normal((count, WIDTH))
    return np.maximum(0, (latents @ mixing) * scale + shift + noise).astype(np.float32)


FEATURES = np.concatenate(
    [reference_features(1, COUNT, 0.0, 1.0), reference_features(2, COUNT, 0.1, 1.1), reference_features(3, HELD_OUT, 0.0, 1.0)]
)


def numbered(rows: range) -> Images:
    """Return images whose first two pixels are a number, 8×8 and grey; `extractor` returns its row of FEATURES."""
    images = np.zeros((len(rows), 8, 8, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.array(rows), 256)
    return images


REAL, FAKE, REST = numbered(range(COUNT)), numbered(range(COUNT, 2 * COUNT)), numbered(range(2 * COUNT, len(FEATURES)))


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("score") / "extractor")
    module: Any = tf.Module()
    module.table = tf.Variable(FEATURES, trainable=False)

    def look_up(images: Any) -> dict[str, Any]:
        pixels = tf.cast(images[:, 0, :2, 0], tf.int32)
        return {"features": tf.gather(module.table, (256 * pixels[:, 0] + pixels[:, 1]) % len(FEATURES))}

    module.look_up = tf.function(look_up, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    tf.saved_model.save(module, folder, signatures=module.look_up)
    return folder


def write_dataset(path: Path, train: Images, held_out: Images) -> Path:
    with new_artifact(path, "dataset", config=IngestConfig()) as writer:
        for split, images in (("train", train), ("eval", held_out)):
            records = (encode_example(Record(image, -1, f"{split} {at}")) for at, image in enumerate(images))
            writer.counts[split] = write_tfrecord(writer.path / shard_name(split, 0, 1), records)
        writer.details = {"image_size": 8, "channels": 1, "label_names": []}
    return path


def write_images(folder: Path, images: Images, suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for at, image in enumerate(images):
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(folder / f"{at:05d}.{suffix}")
    return folder


def save(file: Path, images: np.ndarray) -> str:
    np.save(file, images)
    return str(file)


class TestReferenceValues:
    def test_a_dataset_and_an_array(self, extractor: str, tmp_path: Path) -> None:
        expected = {"precision": 0.7215, "recall": 0.967, "density": 0.5112, "coverage": 0.829}
        dataset, fake = write_dataset(tmp_path / "dataset", REAL, REST), save(tmp_path / "fake.npy", FAKE)
        words = ["score", str(dataset), fake, "--extractor", extractor, "--json"]
        code, output = run(*words)
        assert code == 0, output
        found = json.loads(output[output.index("{\n") :])
        assert found["fid"] == pytest.approx(1.521861031477826, rel=1e-5)
        assert found["kid"] == pytest.approx(0.06306816431574136, rel=1e-4)
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-3)
        assert (found["provenance"]["real"]["count"], found["provenance"]["real"]["held_out"]) == (COUNT, HELD_OUT)
        assert found["provenance"]["weights"] == "not drawn here"
        assert set(found["not_measured"]) == {"class_score", "classes_covered", "class_imbalance"}

    def test_published_statistics_have_a_fid_and_nothing_else(self, extractor: str, tmp_path: Path) -> None:
        features = FEATURES[:COUNT].astype(np.float64)
        np.savez(tmp_path / "published.npz", mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False))
        page = tmp_path / "page.html"
        words = [str(tmp_path / "published.npz"), save(tmp_path / "fake.npy", FAKE), "--extractor", extractor]
        code, output = run("score", *words, "--report", str(page))
        assert code == 0, output
        assert "1.522" in output
        assert "2,000 samples (seed 0, not drawn here) against published statistics." in output.replace("\n", " ")
        assert "Not measured: KID, Precision, Recall" in output
        shown, sections = parsed(page.read_text())
        assert sections == ["compared", "samples", "scores"]
        assert "Comparable with a published FID only if" in shown.text

    @pytest.mark.parametrize(
        ("mean", "covariance"), [(np.zeros(64), np.eye(3)), (np.zeros((2, 2)), np.eye(2)), (np.zeros(2), np.eye(2) * np.nan)]
    )
    def test_statistics_of_another_shape_are_refused(self, mean: Any, covariance: Any, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", mu=mean, sigma=covariance)
        code, output = run("score", str(tmp_path / "x.npz"), str(tmp_path))
        assert (code, "not finite arrays [D] and [D, D]." in output) == (2, True), output


class TestForms:
    """The same images in another form have the same scores."""

    def test_files_archives_and_arrays(self, extractor: str, tmp_path: Path) -> None:
        real, fake = np.concatenate([REAL[:200], REAL[:50]]), FAKE[:150]
        forms = {"folder": str(write_images(tmp_path / "real", real)), "array": save(tmp_path / "real.npy", real[..., 0])}
        np.savez(tmp_path / "real.npz", images=real, anything=np.zeros(3))
        forms["npz"] = str(tmp_path / "real.npz")
        with zipfile.ZipFile(tmp_path / "real.zip", "w") as packed:
            for file in sorted((tmp_path / "real").iterdir()):
                packed.write(file, file.name)
        with tarfile.open(tmp_path / "real.tar.gz", "w:gz") as unpacked:
            unpacked.add(tmp_path / "real", "real")
        forms |= {"zip": str(tmp_path / "real.zip"), "tar": str(tmp_path / "real.tar.gz")}
        options = Options(EvaluateConfig(extractor=f"savedmodel:{extractor}", kid_subsets=4))
        fake_file = save(tmp_path / "fake.npy", fake)
        results = {name: score(location, fake_file, options).content for name, location in forms.items()}
        for content in results.values():
            assert content | {"real": None} == results["folder"] | {"real": None}
            assert (content["real"]["images"], content["real"]["different"]) == (200, 200)
        count = results["folder"]["provenance"]["real"]
        assert count["count"] + count["held_out"] == 200  # the 50 copies are left out, as ingest does
        assert 20 <= count["held_out"] <= 60

    def test_copies_in_fake_count_and_a_sample_of_it_is_drawn_by_seed(self, extractor: str, tmp_path: Path) -> None:
        real, fake = save(tmp_path / "real.npy", REAL[:200]), save(tmp_path / "fake.npy", np.repeat(FAKE[:1], 150, axis=0))
        options = Options(EvaluateConfig(extractor=f"savedmodel:{extractor}", kid_subsets=4, kid_subset_size=20))
        collapsed = score(real, fake, options)
        assert (collapsed.content["fake"]["images"], collapsed.content["fake"]["different"]) == (150, 1)
        assert collapsed.content["recall"] == 0.0
        parsed(collapsed.page)
        fake = save(tmp_path / "fake.npy", FAKE[:300])
        first, again = (score(real, fake, options._replace(samples=120)) for _ in range(2))
        assert first == again
        assert first.content["provenance"]["samples"] == 120
        other = score(real, fake, options._replace(samples=120, config=options.config.model_copy(update={"seed": 1})))
        assert other.content["fid"] != first.content["fid"]

    def test_sizes_and_colours_are_made_equal_as_ingest_does(self, extractor: str, tmp_path: Path) -> None:
        digits = part("rest").images[:200]
        large = digits.repeat(4, axis=1).repeat(5, axis=2).repeat(3, axis=3)  # 40×32, RGB
        real, fake = write_images(tmp_path / "real", digits), write_images(tmp_path / "fake", large, "bmp")
        code, output = run("score", str(real), str(fake))
        assert code == 2
        assert "REAL is grey and FAKE is in colour: scores need the same channels. Use --channels 1" in output
        code, output = run("score", str(real), str(fake), "--channels", "1")
        assert code == 2
        assert (
            "REAL has images of 8×8 and FAKE has images of 40×32 pixels: scores need one square size. Use --image-size 8,"
            in output
        )
        options = Options(EvaluateConfig(extractor=f"savedmodel:{extractor}", kid_subsets=4), image_size=8, channels=1)
        content = score(str(real), str(fake), options).content
        assert (content["fake"]["sizes"], content["fake"]["scored_at"]) == ("40×32", "8×8×1")
        assert "centre square, then Pillow LANCZOS" in content["fake"]["resize"]
        assert content["real"]["resize"] == "none: native 8×8"

    def test_the_page_shows_the_nearest_and_the_farthest_pairs(self, extractor: str, tmp_path: Path) -> None:
        options = Options(EvaluateConfig(extractor=f"savedmodel:{extractor}", kid_subsets=4))
        real, fake = save(tmp_path / "real.npy", REAL[:300]), save(tmp_path / "<fake>.npy", REAL[100:250])
        page, sections = parsed(score(real, fake, options).page)
        assert sections == ["compared", "samples", "scores", "neighbours"]
        for words in (
            "Nearest pairs",
            "Farthest pairs",
            "The first images of REAL.",
            "<fake>.npy",
            "Not measured: Class score",
        ):
            assert words in page.text, words
        assert sum(tag == "img" for tag, _ in page.elements) == 5


def test_every_metric_is_measured_or_named(extractor: str, tmp_path: Path) -> None:
    options = Options(EvaluateConfig(extractor=f"savedmodel:{extractor}", kid_subsets=4))
    content = score(save(tmp_path / "a.npy", REAL[:200]), save(tmp_path / "b.npy", FAKE[:150]), options).content
    assert {metric.name for metric in table.METRICS} <= content.keys() | content["not_measured"].keys()


class TestBadInput:
    @pytest.fixture
    def real(self, tmp_path: Path) -> str:
        return save(tmp_path / "real.npy", REAL[:200])

    @pytest.mark.parametrize(
        ("content", "code", "sentence"),
        [
            (np.zeros((200, 8, 8, 1), np.float32), 2, "holds float32 [200, 8, 8, 1], not images. Save uint8 images"),
            (np.zeros((200, 3, 8, 8), np.uint8), 2, "holds uint8 [200, 3, 8, 8], not images; the channels must come last."),
            (np.zeros((200, 8), np.uint8), 2, "holds uint8 [200, 8], not images."),
            (np.array([{}]), 2, "is damaged, or holds something else than arrays of numbers."),
            (REAL[:10], 3, "has 10 images; scores need at least 100. Name more images."),
        ],
    )
    def test_arrays(self, real: str, tmp_path: Path, content: Any, code: int, sentence: str) -> None:
        np.save(tmp_path / "fake.npy", content, allow_pickle=True)
        found, output = run("score", real, str(tmp_path / "fake.npy"))
        assert (found, sentence in output) == (code, True), output

    def test_statistics_as_fake_or_without_their_extractor(self, real: str, extractor: str, tmp_path: Path) -> None:
        np.savez(tmp_path / "s.npz", mu=np.zeros(5), sigma=np.eye(5))
        code, output = run("score", real, str(tmp_path / "s.npz"))
        assert (code, "statistics, which only REAL can be" in output) == (2, True), output
        code, output = run("score", str(tmp_path / "s.npz"), real)
        assert (code, "Use --extractor inception, or the SavedModel" in output) == (2, True), output
        code, output = run("score", str(tmp_path / "s.npz"), real, "--extractor", extractor)
        assert (code, "statistics of 5 features; the extractor computes 64." in output) == (2, True), output

    def test_folders_and_archives(self, real: str, tmp_path: Path) -> None:
        folder = tmp_path / "fake"
        folder.mkdir()
        code, output = run("score", real, str(folder))
        assert (code, f"FAKE: {folder} contains no files except hidden ones." in output) == (3, True), output
        for name in ("a.txt", "b.txt"):
            (folder / name).write_text("This is a text.")
        code, output = run("score", real, str(folder))
        sentence = (
            f"None of the 2 files of FAKE ({folder}) is a readable image: a.txt, b.txt. Name a folder or an archive of images."
        )
        assert (code, sentence in output) == (3, True), output
        with zipfile.ZipFile(tmp_path / "fake.zip", "w") as packed:
            packed.write(folder / "a.txt", "a.txt")
        code, output = run("score", real, str(tmp_path / "fake.zip"))
        assert (code, "None of the 1 files of FAKE" in output) == (3, True), output
        write_images(folder, FAKE[:30])
        code, output = run("score", real, str(folder))
        assert (code, "2 of 32 files of FAKE" in output, "(6.2%, allowed 5.0%)" in output) == (3, True, True), output
        code, output = run("score", str(tmp_path / "gone"), real)
        assert (code, "REAL: " in output, "is not a folder, and no file matches it" in output) == (2, True, True), output

    def test_few_and_equal_real_images(self, real: str, tmp_path: Path) -> None:
        for images, sentence in (
            (REAL[:10], "has 10 images, of which 10 are different:"),
            (np.repeat(REAL[:1], 100, axis=0), "has 100 images, of which 1 are different: "),
        ):
            code, output = run("score", save(tmp_path / "few.npy", images), real)
            assert (code, sentence in output, "Name at least 100 different images." in output) == (3, True, True), output

    def test_other_artifacts_and_options(self, real: str, tmp_path: Path) -> None:
        with new_artifact(tmp_path / "push", "push", config=IngestConfig()):
            pass
        code, output = run("score", real, str(tmp_path / "push"))
        assert (code, "is an artifact of the kind push" in output) == (2, True), output
        for words, sentence in (
            (["--set", "train.rounds=3"], "--set train.rounds=3 has no effect on scores. Set keys of [evaluate]."),
            (["--image-size", "4"], "Use 8 to 1024."),
            (["--channels", "2"], "--channels 2 is neither grey nor RGB."),
            (["--extractor", "inception"], "the FID of papers needs the file classify_image_graph_def.pb from http"),
            (["--extractor", "nowhere"], "nowhere/saved_model.pb does not exist."),
        ):
            code, output = run("score", real, real, *words)
            assert (code, sentence in output) == (2, True), output
