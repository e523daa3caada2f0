"""Images drawn from a SavedModel."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from components.common.errors import ArtifactError, ConfigError
from components.common.images import grid
from components.generator import generator
from components.generator.__main__ import main
from components.generator.latents import interpolated, truncated
from pipeline.cli import app
from tests.support.datasets.tiny_artifacts import part, sample_here, save_generator, write_model

# Prints the peak memory of a command in KiB. A small process starts it: ru_maxrss begins with the peak of the process before.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("generator") / "model", part("rest").images, noise=8)


@pytest.fixture(scope="module")
def labelled_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of labels 0 and 2, trained without images of label 1; with its initial weights."""
    from components.train.config import TrainConfig
    from components.train.networks import ImageShape
    from components.train.saving.export import Generator

    config = TrainConfig(conditional=True, latents=4, generator_channels=2)
    made = Generator(ImageShape(8, 1, 3), config, [5, 0, 5])
    rows = [variable for variable in made.network.variables if variable.name == "rows"]
    for index, variable in enumerate(rows):
        variable.assign(np.random.default_rng(index).normal(size=variable.shape))  # initially all labels have the same rows
    folder = tmp_path_factory.mktemp("labels")
    made.save(folder / "saved_model")
    return folder


class TestSample:
    def test_another_process_draws_the_same_images(self, model: Path) -> None:
        images = generator.sample_in_fresh_process(model, 30, seed=7)
        assert images.shape == (30, 8, 8, 1)
        assert images.dtype == np.uint8
        assert np.array_equal(images, generator.sample(generator.load(model / "saved_model"), 30, seed=7))

    def test_the_first_images_do_not_depend_on_the_count(self, model: Path) -> None:
        loaded = generator.load(generator.find_saved_model(model))
        many = generator.sample(loaded, 23, seed=1, batch_size=10)
        assert len(many) == 23
        for count in (1, 10, 11):
            assert np.array_equal(generator.sample(loaded, count, seed=1, batch_size=10), many[:count])

    def test_batches_and_seeds_differ(self, model: Path) -> None:
        loaded = generator.load(generator.find_saved_model(model))
        first, second = (generator.sample(loaded, 20, seed=seed, batch_size=10) for seed in (1, 2))
        assert not np.array_equal(first, second)
        assert not np.array_equal(first[:10], first[10:])

    def test_seeds_of_batches_fit_an_int64_and_do_not_collide(self) -> None:
        seeds = {generator.seed_of_batch(seed, index) for seed in range(100) for index in range(100)}
        assert len(seeds) == 100 * 100
        assert min(seeds) >= 0
        assert max(seeds) < 2**63

    def test_float_images_are_refused(self, tmp_path: Path) -> None:
        save_generator(tmp_path / "saved_model", part("rest").images, fault="float")
        with pytest.raises(ArtifactError, match=r"returned float32 \[500, 8, 8, 1\], uint8 \[500, H, W, C\] is needed"):
            generator.sample(generator.load(tmp_path / "saved_model"), 3, seed=0)


class TestFindAndLoad:
    def test_a_model_and_its_saved_model_are_both_found(self, model: Path) -> None:
        assert generator.find_saved_model(model) == model / "saved_model"
        assert generator.find_saved_model(model / "saved_model") == model / "saved_model"

    def test_a_folder_without_a_generator_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"holds no generator.* Name a model artifact"):
            generator.sample_in_fresh_process(tmp_path, 1, 0)

    def test_a_damaged_generator_is_a_one_line_error_of_the_new_process(self, model: Path, tmp_path: Path) -> None:
        shutil.copytree(model / "saved_model", tmp_path / "saved_model")
        (tmp_path / "saved_model" / "saved_model.pb").write_bytes(b"\xff" * 99)
        with pytest.raises(ArtifactError) as caught:
            generator.sample_in_fresh_process(tmp_path, 1, 0)
        sentence = str(caught.value)
        assert sentence.startswith(f"Sampling {tmp_path / 'saved_model'} failed: ")
        assert "cannot be loaded" in sentence
        assert sentence.endswith("Run train again.")
        assert "\n" not in sentence
        assert "Traceback" not in sentence

    def test_a_killed_process_is_reported_with_its_signal(self) -> None:
        killed = generator.subprocess.CompletedProcess[str]([], -9, "", "2025-01-01 I tensorflow: noise\n")
        assert generator.last_line(killed) == "ended by signal 9, often for lack of memory."


class TestLabels:
    def test_generate_draws_one_label(self, labelled_model: Path, tmp_path: Path) -> None:
        out = tmp_path / "twos"
        done = CliRunner().invoke(app, ["generate", str(labelled_model), "--count", "3", "--label", "2", "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert "Wrote 3 images of label 2 and grid.png" in done.output
        loaded = generator.load(generator.find_saved_model(labelled_model))
        twos = generator.sample(loaded, 3, seed=0, label=2)
        for index, image in enumerate(twos):
            with Image.open(out / f"{index}.png") as drawn:
                assert np.array_equal(np.asarray(drawn), image[..., 0])
        assert not np.array_equal(twos, generator.sample(loaded, 3, seed=0, label=0))
        assert np.array_equal(twos, generator.sample(loaded, 700, seed=0, label=2)[:3])

    @pytest.mark.parametrize("label", [-1, 1, 3])
    def test_a_label_without_training_images_is_refused(self, label: int, labelled_model: Path) -> None:
        loaded = generator.load(generator.find_saved_model(labelled_model))
        with pytest.raises(ConfigError, match=rf"was not trained on label {label}; it knows 2 labels, from 0 to 2\. Use one"):
            generator.sample(loaded, 3, seed=0, label=label)

    def test_a_label_is_refused_by_a_model_without_labels(self, model: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            generator.sample_in_fresh_process(model, 3, seed=0, label=3)
        assert str(caught.value) == (
            "The model was trained without labels, so there is no label 3. "
            "Leave --label out, or train with train.conditional = true."
        )

    def test_a_model_without_label_counts_is_an_error(self, tmp_path: Path) -> None:
        from components.train.config import TrainConfig
        from components.train.networks import ImageShape
        from components.train.saving.export import Generator

        made = Generator(ImageShape(8, 1, 3), TrainConfig(conditional=True, latents=4, generator_channels=2), [5, 0, 5])
        del made.label_counts
        made.save(tmp_path / "saved_model")
        with pytest.raises(ConfigError) as caught:
            generator.sample(generator.load(tmp_path / "saved_model"), 3, seed=0, label=0)
        assert str(caught.value) == (
            "The model does not record which labels it was trained on: it has no label_counts. "
            "Export it with this program's train, or draw without --label, --truncation and --interpolate."
        )

    def test_truncated_images_of_a_model_with_labels(self, labelled_model: Path) -> None:
        loaded = generator.load(generator.find_saved_model(labelled_model))
        (any_label,) = generator.sample_batches(loaded, 5, seed=0, truncation=0.5)
        (twos,) = generator.sample_batches(loaded, 5, seed=0, label=2, truncation=0.5)
        (zeros,) = generator.sample_batches(loaded, 5, seed=0, label=0, truncation=0.5)
        assert twos.shape == any_label.shape == (5, 8, 8, 1)
        assert not np.array_equal(twos, zeros)
        rows = generator.strip(loaded, 3, seed=0)
        assert rows.shape == (12, 8, 8, 1)
        shown = [generator.strip(loaded, 3, seed=0, label=label) for label in (0, 2)]
        assert sum(np.array_equal(rows, each) for each in shown) == 1, "one label of the model"


class TestLatents:
    def test_truncated_latents_are_normal_within_the_bounds(self) -> None:
        latents = truncated(np.random.default_rng(0), 20_000, 4, 1.0)
        assert latents.dtype == np.float32
        assert np.abs(latents).max() <= 1.0
        # Variance of a normal cut at ±1: 1 − 2φ(1) / (2Φ(1) − 1) = 0.2911
        assert latents.var() == pytest.approx(0.2911, abs=0.005)
        assert abs(latents.mean()) < 0.01

    def test_a_wide_bound_changes_nothing(self) -> None:
        plain = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
        assert np.array_equal(truncated(np.random.default_rng(0), 9, 4, 100.0), plain)

    @pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
    def test_an_empty_range_is_refused(self, threshold: float) -> None:
        with pytest.raises(ValueError, match="leaves no latents"):
            truncated(np.random.default_rng(0), 1, 1, threshold)

    def test_interpolated_latents_connect_their_ends_and_keep_their_norm(self) -> None:
        ends = np.random.default_rng(0).standard_normal((3, 128))
        rows = interpolated(ends, 5).reshape(2, 5, 128)
        assert np.allclose(rows[:, 0], ends[:2], atol=1e-6)
        assert np.allclose(rows[:, -1], ends[1:], atol=1e-6)
        norms, least = np.linalg.norm(rows, axis=2), np.linalg.norm(ends, axis=1).min()
        assert norms.min() > 0.95 * least, "the middle of a line would have 0.7 of it"

    def test_ends_of_one_direction_are_connected_by_a_line(self) -> None:
        ends = np.array([[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0]])
        assert np.allclose(interpolated(ends, 3)[:, 0], [1, 2, 3, 3, 1, -1], atol=1e-6)

    @pytest.mark.parametrize(("ends", "steps"), [(1, 3), (2, 1)])
    def test_too_few_ends_or_steps_are_refused(self, ends: int, steps: int) -> None:
        with pytest.raises(ValueError, match="needs 2 ends and 2 steps"):
            interpolated(np.ones((ends, 4)), steps)


class TestCommand:
    def test_generate_draws_truncated_images_and_a_strip(self, model: Path, tmp_path: Path) -> None:
        out = tmp_path / "drawn"
        words = ["generate", str(model), "--count", "3", "--truncation", "0.5", "--interpolate", "5", "--out", str(out)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert f"Wrote 3 images, latents within ±0.5, and grid.png and interpolation.png to {out}." in done.output
        loaded = generator.load(generator.find_saved_model(model))
        (images,) = generator.sample_batches(loaded, 3, seed=0, truncation=0.5)
        with Image.open(out / "2.png") as drawn:
            assert np.array_equal(np.asarray(drawn), images[2, ..., 0])
        with Image.open(out / "interpolation.png") as strip:
            assert np.array_equal(np.asarray(strip), grid(generator.strip(loaded, 5, 0, truncation=0.5), 5, scale=8)[..., 0])
            assert strip.size == (5 * 65 + 1, generator.STRIP_ROWS * 65 + 1)

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["--truncation", "0"], "--truncation 0 leaves no latents to draw. Use 0.01 or more; 2 changes little."),
            (["--interpolate", "1"], "--interpolate 1 is not an interpolation. Use 2 steps or more."),
        ],
    )
    def test_invalid_options_are_refused_before_tensorflow_starts(
        self, words: list[str], sentence: str, model: Path, tmp_path: Path
    ) -> None:
        done = CliRunner().invoke(app, ["generate", str(model), *words, "--out", str(tmp_path / "drawn")])
        assert str(done.exception) == sentence
        assert not (tmp_path / "drawn").exists()

    def test_a_model_without_latents_cannot_be_truncated(self, tmp_path: Path) -> None:
        save_generator(tmp_path / "saved_model", part("rest").images, fault="latents")
        loaded = generator.load(tmp_path / "saved_model")
        with pytest.raises(ArtifactError, match="has no signature generate_from_latents, so its latents cannot be chosen"):
            list(generator.sample_batches(loaded, 3, seed=0, truncation=1.0))

    def test_memory_does_not_grow_with_the_count(self, tmp_path: Path) -> None:
        """10,000 images of 64 × 64 × 3 are 123 MB, a batch of them is 6 MB."""
        save_generator(tmp_path / "saved_model", np.zeros((2, 64, 64, 3), np.uint8), noise=100)
        peaks = []
        for count in (500, 10_000):
            out = tmp_path / "images.npy"
            words = [sys.executable, "-m", "components.generator", str(tmp_path), "--count", str(count), "--out", str(out)]
            done = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True, check=True)
            assert np.load(out, mmap_mode="r").shape == (count, 64, 64, 3)
            peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
        assert peaks[1] - peaks[0] < 60, f"MiB of 500 and of 10,000 images: {peaks}"

    def test_a_grid_of_many_shows_the_first(self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn_here = generator.DrawnImages(sample_here(model, 500, 0), None)
        monkeypatch.setattr(generator, "drawn_in_fresh_process", lambda *_, **__: contextlib.nullcontext(drawn_here))
        done = CliRunner().invoke(app, ["generate", str(model), "--count", "500", "--out", str(tmp_path / "drawn")])
        assert "Wrote 500 images and grid.png of the first 400 to" in done.output
        assert len(list((tmp_path / "drawn").glob("???.png"))) == 500
        with Image.open(tmp_path / "drawn" / "grid.png") as drawn:
            assert drawn.size == (20 * 65 + 1, 20 * 65 + 1)

    def test_a_count_below_one_is_refused(self, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main([str(model), "--count", "0", "--out", "images.npy"])
        assert "at least 1 is needed" in capsys.readouterr().err

    def test_the_images_load_without_pickle(self, model: Path, tmp_path: Path) -> None:
        assert main([str(model), "--count", "3", "--seed", "5", "--out", str(tmp_path / "images.npy")]) == 0
        assert np.load(tmp_path / "images.npy", allow_pickle=False).shape == (3, 8, 8, 1)
