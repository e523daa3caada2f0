"""The gate's bootstrap, compared with the plain formula, and its error rates in 200 simulated decisions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from components.evaluate.metrics import kid, prdc
from components.gate.checks import RescoredChampion, check_candidate
from components.gate.config import GateConfig
from components.gate.evidence import compare
from tests.support.push_bench import SCORES

GATES, IMAGES, WIDTH, K = 200, 150, 16, 5
Array = npt.NDArray[np.float32]


def draw(generator: np.random.Generator, count: int, shift: float) -> Array:
    """Draw features [count, 16] of rectified Gaussians; real ones have shift 0."""
    latents = generator.standard_normal((count, WIDTH)) @ (np.random.default_rng(1234).standard_normal((WIDTH, WIDTH)) / 4)
    return np.maximum(0, latents + shift + 0.5 * generator.standard_normal((count, WIDTH))).astype(np.float32)


def published(seed: int, candidate_shift: float, champion_shift: float) -> bool:
    generator = np.random.default_rng(seed)
    real = draw(generator, IMAGES, 0.0)
    candidate, champion = draw(generator, IMAGES, candidate_shift), draw(generator, IMAGES, champion_shift)
    evidence = compare(real, candidate, champion, replicates=200, seed=seed)
    ours, theirs = (SCORES | {"coverage": prdc.compute(real, fake, K).coverage} for fake in (candidate, champion))
    checks = check_candidate(GateConfig(coverage_margin=0.1), ours, RescoredChampion("v0001", theirs, evidence))
    return all(check.passed for check in checks)


class TestSimulatedGates:
    @pytest.mark.parametrize("shift", [0.0, pytest.param(0.3, marks=pytest.mark.heavy)])
    def test_equal_models_are_published_in_under_10_percent(self, shift: float) -> None:
        """Equally far from the real images; shift 0, where the bootstrap is weakest, is no distance at all."""
        assert sum(published(seed, shift, shift) for seed in range(GATES)) < 0.1 * GATES

    def test_clearly_better_models_are_published_in_over_95_percent(self) -> None:
        assert sum(published(seed, 0.1, 0.5) for seed in range(GATES)) > 0.95 * GATES

    def test_worse_models_are_never_published(self) -> None:
        assert not any(published(seed, 0.5, 0.1) for seed in range(50))


class TestEvidence:
    def test_the_difference_is_that_of_the_two_kids(self) -> None:
        generator = np.random.default_rng(0)
        real, good, bad = draw(generator, 90, 0.0), draw(generator, 70, 0.1), draw(generator, 80, 0.4)
        wide = [each.astype(np.float64) for each in (real, good, bad)]  # evidence is computed in float64
        expected = kid.compute(wide[0], wide[2]) - kid.compute(wide[0], wide[1])
        assert compare(real, good, bad, replicates=10).difference == pytest.approx(expected, rel=1e-9)

    def test_a_replicate_is_the_formula_on_the_drawn_images(self) -> None:
        """One resampling written out with loops; pairs of an image with itself are left out."""
        generator = np.random.default_rng(0)
        real, good, bad = (draw(generator, count, shift) for count, shift in ((6, 0.0), (5, 0.1), (7, 0.4)))
        draws = np.random.default_rng(9)
        rows = [np.repeat(np.arange(n), draws.multinomial(n, np.full(n, 1 / n), size=1)[0]) for n in (6, 5, 7)]

        def k(x: Array, y: Array) -> float:
            return float((np.dot(x.astype(float), y.astype(float)) / WIDTH + 1) ** 3)

        def half(fake: Array, drawn: npt.NDArray[np.intp]) -> float:
            pairs = [k(fake[i], fake[j]) for i in drawn for j in drawn if i != j]
            return float(np.mean(pairs)) - 2 * float(np.mean([k(fake[i], real[j]) for i in drawn for j in rows[0]]))

        found = compare(real, good, bad, replicates=1, seed=9)
        assert found.low == found.high == pytest.approx(half(bad, rows[2]) - half(good, rows[1]), rel=1e-9)

    def test_the_real_images_are_shared(self) -> None:
        """Comparing a model with itself, the sampling error of the real images must cancel, not add."""
        generator = np.random.default_rng(0)
        few, fake = draw(generator, 20, 0.0), draw(generator, 2000, 0.3)
        found = compare(few, fake, fake, replicates=200)
        one_kid = np.std([kid.compute(draw(generator, 20, 0.0), fake) for _ in range(20)])
        independent = 2 * 1.645 * np.sqrt(2) * one_kid  # the width of 90 % if each KID had other real images
        assert found.high - found.low < 0.4 * independent

    def test_the_same_seed_gives_the_same_evidence(self) -> None:
        generator = np.random.default_rng(0)
        arrays = [draw(generator, 50, shift) for shift in (0.0, 0.1, 0.2)]
        assert compare(*arrays, seed=1) == compare(*arrays, seed=1) != compare(*arrays, seed=2)

    @pytest.mark.parametrize(
        ("shapes", "sentence"),
        [
            (((9, 3), (9, 4), (9, 3)), "features differ in width: real 3, candidate 4, champion 3"),
            (((9, 3), (1, 3), (9, 3)), "at least 2 images of each kind; got 1 and 9"),
            (((9,), (9, 3), (9, 3)), "features must be finite"),
        ],
    )
    def test_error_for_features_that_cannot_be_compared(self, shapes: tuple[tuple[int, ...], ...], sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            compare(*(np.ones(shape) for shape in shapes))
