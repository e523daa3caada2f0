"""Drift: distances against SciPy and closed forms, no alarm between random halves, and every planted drift found."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from components.validate.config import ValidateConfig
from components.validate.drift.drift import (
    chi_squared_quantile,
    divergence_noise,
    jensen_shannon_bits,
    measure,
    most_by_chance,
    multinomial_noise,
    pooled,
    to_anomalies,
)
from components.validate.statistics.tally import Batch, Tally, total
from tests.support.snapshots import Images, Labels, brighter, digits, with_blanks, without_label

DRAWS = 100
GROUPS = 200
Part = tuple[Tally, Counter[str]]


def part_of(images: Images, labels: Labels) -> Part:
    """Return the tally and the labels of images."""
    tally = Tally(images.shape[-1])
    for start in range(0, len(images), 1000):
        some = images[start : start + 1000]
        count = len(some)
        batch = Batch(
            some, labels[start : start + count].tolist(), ["id"] * count, [("f", 0)] * count, [0] * count, [0] * count
        )
        tally.add(batch, 2.0)
    return tally, Counter(str(label) for label in labels.tolist())


def found(before: Part, now: Part, **fields: float) -> dict[str, str]:
    """Return the features that have drifted, with their severity."""
    config = ValidateConfig.model_validate(fields)
    anomalies = to_anomalies(measure(before[0], now[0], (dict(before[1]), dict(now[1])), config))
    return {anomaly.feature: anomaly.severity for anomaly in anomalies}


def groups_of(images: Images, labels: Labels, seed: int) -> list[Part]:
    """Return random groups of images of one size: half of them, drawn at random, are a random half of the images."""
    order = np.random.default_rng(seed).permutation(len(images))
    return [part_of(images[places], labels[places]) for places in np.array_split(order, GROUPS)]


def halves(groups: list[Part], rng: np.random.Generator) -> tuple[Part, Part]:
    order = rng.permutation(len(groups))
    sides = []
    for places in np.array_split(order, 2):
        chosen = [groups[place] for place in places]
        sides.append(
            (total((tally for tally, _ in chosen), chosen[0][0].channels), sum((c for _, c in chosen), Counter[str]()))
        )
    return sides[0], sides[1]


@pytest.mark.parametrize("seed", range(5))
def test_divergence_is_scipy_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 50, 20), rng.integers(0, 50, 20)
    assert jensen_shannon_bits(a, b) == pytest.approx(jensenshannon(a, b, base=2) ** 2, abs=1e-12)


def test_divergence_at_its_ends() -> None:
    assert jensen_shannon_bits([3, 5, 0], [6, 10, 0]) == 0
    assert jensen_shannon_bits([1, 0], [0, 7]) == 1


def test_quantiles_are_those_of_the_distributions() -> None:
    for freedom in (3.0, 7.5, 31.0, 63.0):
        for probability in (0.9, 0.999, 0.9999):
            exact = stats.chi2.ppf(probability, freedom)
            assert chi_squared_quantile(freedom, probability) == pytest.approx(exact, rel=0.04)
    for draws, probability, chance in ((18, 0.5, 1e-4), (200, 0.3, 1e-3), (5, 0.5, 1e-4), (0, 0.5, 1e-3)):
        most = most_by_chance(draws, probability, chance)
        assert stats.binom.sf(most, draws, probability) <= chance
        assert most == 0 or stats.binom.sf(most - 1, draws, probability) > chance
    assert most_by_chance(100_000, 0.5, 1e-3) == pytest.approx(stats.binom.isf(1e-3, 100_000, 0.5), abs=3)


def test_the_noise_of_a_histogram_is_exceeded_as_often_as_said() -> None:
    rng, shares = np.random.default_rng(0), np.arange(1, 13) / 78
    draws = [(rng.multinomial(900, shares), rng.multinomial(1500, shares)) for _ in range(4000)]
    above = sum(jensen_shannon_bits(a, b) > multinomial_noise(a, b, 0.05) for a, b in draws)
    assert 0.035 < above / 4000 < 0.065


def test_satterthwaite_s_quantile_is_that_of_a_weighted_sum() -> None:
    rng, weights = np.random.default_rng(0), np.array([4.0, 2.0, 1.0, 0.5, 0.5])
    sums = rng.chisquare(1, (200_000, 5)) @ weights / (8 * np.log(2))
    assert (sums > divergence_noise(weights, 0.01)).mean() == pytest.approx(0.01, rel=0.35)


def test_pooling_keeps_every_image() -> None:
    a, b = pooled(np.array([0, 1, 30, 0, 5, 0]), np.array([2, 0, 25, 9, 4, 1]), 20)
    assert (a.tolist(), b.tolist()) == ([36], [41])
    a, b = pooled(np.array([0, 1, 30, 0, 15, 0]), np.array([2, 0, 25, 9, 4, 1]), 20)
    assert (a.tolist(), b.tolist()) == ([31, 15], [27, 14])
    assert [part.tolist() for part in pooled(np.array([3, 4]), np.array([1, 1]), 20)] == [[7], [2]]


@pytest.fixture(scope="module")
def whole() -> Part:
    return part_of(*digits())


def test_planted_drift_of_digits_is_found(whole: Part) -> None:
    images, labels = digits()
    for label in range(10):
        assert found(whole, part_of(*without_label(images, labels, label)))["label_name"] == "error"
    assert found(whole, part_of(brighter(images, 0.1), labels))["brightness"] == "error"
    assert found(whole, part_of(brighter(images, -0.1), labels))["brightness"] == "error"
    assert found(whole, part_of(with_blanks(images, 0.01), labels)) == {"image": "error"}
    assert found(whole, whole) == {}


def test_random_halves_of_digits_do_not_alarm() -> None:
    rng, groups = np.random.default_rng(0), groups_of(*digits(), seed=0)
    drawn = [halves(groups, rng) for _ in range(DRAWS)]
    assert sum(bool(found(*pair)) for pair in drawn) <= 1
    # The control: were the noise not taken into account, every pair would alarm.
    limits = ValidateConfig()
    raw = [measure(a[0], b[0], (dict(a[1]), dict(b[1])), limits) for a, b in drawn]
    assert sum(any(part.value > part.warn for part in parts) for parts in raw) > 90


@pytest.fixture(scope="module")
def fashion(fashion_mnist: Path) -> tuple[Images, Labels]:
    """The 60,000 training images of Fashion-MNIST."""
    pixels = gzip.decompress((fashion_mnist / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((fashion_mnist / "train-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(pixels, np.uint8, offset=16).reshape(60_000, 28, 28, 1)
    return images, np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)


@pytest.mark.heavy
def test_planted_drift_of_fashion_mnist_is_found(fashion: tuple[Images, Labels]) -> None:
    images, labels = fashion
    whole = part_of(images, labels)
    assert found(whole, part_of(*without_label(images, labels, 6)))["label_name"] == "error"
    assert found(whole, part_of(brighter(images, 0.1), labels))["brightness"] == "error"
    assert found(whole, part_of(with_blanks(images, 0.01), labels))["image"] == "error"


@pytest.mark.heavy
def test_random_halves_of_fashion_mnist_do_not_alarm(fashion: tuple[Images, Labels]) -> None:
    rng, groups = np.random.default_rng(0), groups_of(*fashion, seed=0)
    assert sum(bool(found(*halves(groups, rng))) for _ in range(DRAWS)) <= 1
