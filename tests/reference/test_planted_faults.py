"""Generators with known faults in the evaluate step: the scores must detect the faults.

The honest generator returns real digits that are not in the dataset, and must pass. The others return copies of training
images, lack classes, or blur the images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter

from components.evaluate import run as evaluate
from components.evaluate.config import EvaluateConfig
from components.evaluate.scores import EvaluateSummary
from components.gate.checks import check_candidate
from components.gate.config import GateConfig
from tests.support.datasets.tiny_artifacts import part, sample_here, write_dataset, write_model

CONFIG = EvaluateConfig(samples=600, kid_subsets=10, kid_subset_size=200)
DROPPED = (3, 5, 8)

Images = npt.NDArray[np.uint8]


class Scores:
    """The scores of all generators."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dataset = write_dataset(folder / "dataset")
        rest = part("rest")
        self.honest = self.of("honest", rest.images)
        self.copies = self.of("copies", part("train").images)
        self.noisy_copies = self.of("noisy copies", part("train").images, noise=20)
        self.dropped = self.of("dropped", rest.images[~np.isin(rest.labels, DROPPED)])
        self.blurred = self.of("blurred", blurred(rest.images))

    def of(self, name: str, bank: Images, noise: int = 0) -> EvaluateSummary:
        model = write_model(self.folder / f"{name} model", bank, noise=noise)
        return evaluate.run(CONFIG, dataset=self.dataset, model=model, work_dir=self.folder / "work", out=self.folder / name)


def blurred(images: Images) -> Images:
    """Return the images, blurred by a Gaussian of one pixel."""
    softened = [Image.fromarray(image[..., 0]).filter(ImageFilter.GaussianBlur(1.0)) for image in images]
    return np.stack([np.asarray(image)[..., None] for image in softened])


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "sample_in_fresh_process", sample_here)
        return Scores(tmp_path_factory.mktemp("planted"))


def passed(summary: EvaluateSummary) -> dict[str, bool]:
    """Return which conditions of the gate a first model passes."""
    checks = check_candidate(GateConfig(), summary.model_dump(), None, [])
    return {check.name: check.passed for check in checks}


def test_an_honest_generator_passes(scores: Scores) -> None:
    honest = scores.honest
    assert honest.floor is not None
    assert honest.ceiling is not None
    assert honest.memorization < 0.05
    assert 0.4 < (honest.memorization_nearer or 0) < 0.6
    assert (honest.memorization_p or 0) > 0.01
    assert honest.classes_covered == 10
    assert honest.sharpness_ratio == pytest.approx(1.0, abs=0.1)
    assert honest.kid < 0.05 * honest.ceiling["kid"]
    assert all(passed(honest).values())


def test_copied_training_images_are_detected_although_kid_is_good(scores: Scores) -> None:
    copies = scores.copies
    assert copies.kid <= scores.honest.kid + 3 * scores.honest.kid_std  # according to KID it is a good model
    assert copies.memorization > 0.95
    assert copies.memorization_nearer is not None
    assert copies.memorization_nearer > 0.99
    assert copies.memorization_p is not None
    assert copies.memorization_p < 1e-9
    assert not passed(copies)["memorization"]


def test_copies_with_noise_are_detected(scores: Scores) -> None:
    assert (scores.noisy_copies.memorization_nearer or 0) > 0.7
    assert (scores.noisy_copies.memorization_p or 1) < 1e-9


def test_the_worst_pairs_of_copies_show_equal_images(scores: Scores) -> None:
    pairs = np.asarray(Image.open(scores.folder / "copies/worst_pairs.png").convert("L"))
    honest = np.asarray(Image.open(scores.folder / "honest/worst_pairs.png").convert("L"))
    assert differences(pairs) < 1.0
    assert differences(honest) > 10.0


def differences(grid: npt.NDArray[np.uint8]) -> float:
    """Return the mean difference in grey levels between the two images of all pairs in a grid with eight columns."""
    scale = grid.shape[1] // (8 * 8)
    width = grid.shape[1] // 8
    columns = [grid[:, at * width : at * width + 8 * scale].astype(float) for at in range(8)]
    return float(np.mean([np.abs(columns[at] - columns[at + 1]).mean() for at in range(0, 8, 2)]))


def test_three_dropped_classes_are_detected(scores: Scores) -> None:
    dropped, honest = scores.dropped, scores.honest
    assert dropped.classes_covered in (7, 8)  # the classifier is wrong for 2 % of images, and sees an 8 in some
    assert (dropped.class_imbalance or 0) > 0.2 > (honest.class_imbalance or 0)
    assert (dropped.class_score or 0) < (honest.class_score or 0) - 1.0
    assert dropped.coverage < honest.coverage - 0.1
    assert dropped.recall < honest.recall
    assert dropped.precision > 0.9
    assert dropped.kid > honest.kid + 5 * honest.kid_std


def test_blur_is_detected(scores: Scores) -> None:
    blurred, honest = scores.blurred, scores.honest
    assert blurred.sharpness_ratio is not None
    assert blurred.sharpness_ratio < 0.5
    assert blurred.kid > honest.kid + 5 * honest.kid_std
    assert blurred.precision < honest.precision - 0.1
