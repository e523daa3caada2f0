"""docs/lipschitz.py: the trainings respect their bounds, the figures are drawn, the tables are printed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.dataset.records import ImageSet
from components.evaluate.features.extractor_training import random_extractor
from docs import lipschitz, lipschitz_figures, lipschitz_points

CLIPPED = list(lipschitz.BOUNDS)[1:]
TINY = lipschitz.Case(8, 4, 50)


@pytest.fixture(scope="module")
def critics() -> dict[str, lipschitz.PointCritic]:
    return lipschitz.point_critics(2, steps=40, width=8)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1)).astype(np.uint8)
    return ImageSet(pixels, np.arange(80) % 2, tuple(map(str, range(80))))


def test_real_points_are_eight_clusters_and_fake_points_spread_around_them() -> None:
    examples = lipschitz_points.point_examples(lipschitz_points.point_seed(0, 0), 4000)
    radii = np.linalg.norm(examples.real_images, axis=-1)
    assert np.allclose(radii, lipschitz_points.RING_RADIUS, atol=0.12)
    angles = np.arctan2(examples.real_images[..., 1], examples.real_images[..., 0]) / (np.pi / 4)
    assert set(np.unique(np.round(angles) % 8)) == set(range(8))
    assert 1.9 < np.var(examples.fake_images, axis=0).sum() - 4.0 < 2.1  # two dimensions of variance 1, around radius 2


def test_critics_of_points_respect_their_bounds(critics: dict[str, lipschitz.PointCritic]) -> None:
    for name in CLIPPED:
        limit = lipschitz.BOUNDS[name]["clip_value"]
        assert np.abs(critics[name].weights).max() == pytest.approx(limit)
    assert np.abs(critics["gradient penalty"].weights).max() > 0.1
    assert np.median(critics[CLIPPED[0]].slopes) < 0.01 < np.median(critics["gradient penalty"].slopes)


def test_gradient_norms_follow_the_chain_rule() -> None:
    critic = lipschitz_points.point_critic(2, 4)
    critic.get_layer("h1").set_weights(
        [np.eye(4), np.ones(4)]
    )  # always in the linear part, where the derivative of h1 by h0 is 1
    critic.get_layer("score").set_weights([np.full((4, 1), 1.5), np.zeros(1)])
    points = lipschitz_points.ring(lipschitz_points.point_seed(0, 0), 16)
    assert np.allclose(lipschitz_points.gradient_norms(critic, points), [3.0, 3.0])


def test_trainings_are_recorded_after_the_same_rounds_and_after_the_same_seconds(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    critics: dict[str, lipschitz.PointCritic],
) -> None:  # fmt: skip
    monkeypatch.setattr(lipschitz, "train_extractor", lambda train, _held_out, _epochs: random_extractor(train.images))
    two = dict(list(lipschitz.BOUNDS.items())[:2])
    monkeypatch.setattr(lipschitz, "BOUNDS", two)
    clock = iter(np.arange(0.0, 1e4, 1.0))
    monkeypatch.setattr("docs.lipschitz_digits.time.process_time", lambda: next(clock))
    results = lipschitz.digit_trainings(TINY._replace(rounds=100), images, images, count=60)
    for same_rounds, same_seconds in results.values():
        assert same_rounds.moment.rounds == 100
        assert (
            same_seconds.moment.cpu_seconds == results["gradient penalty"][0].moment.cpu_seconds == 1.0
        )  # the first call is not counted
        assert np.isfinite([same_rounds.fid, same_rounds.kid]).all()
    assert np.abs(results[CLIPPED[0]][0].moment.weights).max() <= 0.0101
    lipschitz_figures.draw_digits({TINY: images.images}, {TINY: results}, tmp_path / "digits.png")
    lipschitz_figures.draw_critics(critics, critics, tmp_path / "critics.png")
    for name in ("digits", "critics"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 900
    lipschitz.print_points(2, critics)
    lipschitz.print_digits(TINY, results)
    assert len(capsys.readouterr().out.splitlines()) == len(critics) + len(two)
