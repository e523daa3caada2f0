"""Drift: distances match their definitions, random halves raise no alarm, and every planted drift is detected."""

from __future__ import annotations

import gzip
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from components.dataset.records import Record
from components.validate.anomalies import WARNING_SHARE, drift_anomalies
from components.validate.config import ValidateConfig
from components.validate.drift.drift import (
    blank_rise,
    divergence_noise,
    jensen_shannon_bits,
    measure,
    multinomial_noise,
    pooled,
)
from components.validate.statistics.tally import RecordRef, Tally, tally_records
from tests.support.datasets.snapshots import Images, Labels, brighter, digits, with_blanks, without_label

DRAWS = 100
GROUPS = 200
Part = tuple[Tally, Counter[str]]


def part_of(images: Images, labels: Labels) -> Part:
    """Return the tally and the labels of images."""
    records = [Record(image, label, "id") for image, label in zip(images, labels.tolist(), strict=True)]
    refs = [RecordRef("id", "file", 0)] * len(records)
    starts = range(0, len(records), 1000)
    parts = (tally_records(records[start : start + 1000], refs[start : start + 1000], 2.0) for start in starts)
    return sum(parts, Tally(images.shape[-1])), Counter(str(label) for label in labels.tolist())


def found(before: Part, now: Part, **fields: float) -> dict[str, str]:
    """Return the features that have drifted, with their severity."""
    config = ValidateConfig.model_validate(fields)
    anomalies = drift_anomalies(measure(before[0], now[0], (dict(before[1]), dict(now[1])), config))
    return {anomaly.feature: anomaly.severity for anomaly in anomalies}


def groups_of(images: Images, labels: Labels, seed: int) -> list[Part]:
    """Divide images into random groups of one size; a random half of the groups is a random half of the images."""
    order = np.random.default_rng(seed).permutation(len(images))
    return [part_of(images[group], labels[group]) for group in np.array_split(order, GROUPS)]


def halves(groups: list[Part], rng: np.random.Generator) -> tuple[Part, Part]:
    order = rng.permutation(len(groups))
    sides = []
    for half in np.array_split(order, 2):
        tallies, labels = zip(*(groups[group] for group in half), strict=True)
        sides.append((sum(tallies[1:], tallies[0]), sum(labels, Counter[str]())))
    return sides[0], sides[1]


@pytest.mark.parametrize("seed", range(5))
def test_divergence_matches_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 50, 20), rng.integers(0, 50, 20)
    assert jensen_shannon_bits(a, b) == pytest.approx(jensenshannon(a, b, base=2) ** 2, abs=1e-12)


def test_divergence_limits() -> None:
    assert jensen_shannon_bits([3, 5, 0], [6, 10, 0]) == 0
    assert jensen_shannon_bits([1, 0], [0, 7]) == 1


@pytest.mark.filterwarnings("ignore:invalid value encountered in sqrt")
def test_divergence_of_nearly_equal_histograms_is_a_number_where_scipy_s_is_not() -> None:
    rng = np.random.default_rng(0)
    pairs = [(counts, counts + np.eye(10, dtype=np.int64)[0]) for counts in rng.integers(0, 10**8, (500, 10))]
    assert any(math.isnan(jensenshannon(*pair, base=2)) for pair in pairs)
    assert all(0 <= jensen_shannon_bits(*pair) < 1e-14 for pair in pairs)


@pytest.mark.parametrize(
    ("blank", "before", "now", "alarms"), [(18, 500, 500, 1e-4), (200, 700, 300, 1e-3), (5, 90, 90, 1e-4), (0, 90, 90, 1e-3)]
)
def test_the_noise_of_near_blank_images_is_the_exact_binomial_bound(blank: int, before: int, now: int, alarms: float) -> None:
    noise = blank_rise(Tally(1, before, blank), Tally(1, now, 0), alarms, ValidateConfig()).noise
    probability = now / (before + now)

    def tail(count: int) -> float:
        """Return the probability that more than `count` of the blank images fall into the new snapshot."""
        rest = range(count + 1, blank + 1)
        return sum(math.comb(blank, k) * probability**k * (1 - probability) ** (blank - k) for k in rest)

    most = next(count for count in range(blank + 1) if tail(count) <= alarms)
    assert noise == pytest.approx(max(0.0, most / now - (blank - most) / before), abs=1e-12)


def test_the_noise_of_a_histogram_is_exceeded_with_the_given_probability() -> None:
    rng, shares = np.random.default_rng(0), np.arange(1, 13) / 78
    draws = [(rng.multinomial(900, shares), rng.multinomial(1500, shares)) for _ in range(4000)]
    above = sum(jensen_shannon_bits(a, b) > multinomial_noise(a, b, 0.05) for a, b in draws)
    assert 0.035 < above / 4000 < 0.065


def test_satterthwaite_s_quantile_approximates_a_weighted_sum() -> None:
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


def test_planted_drift_of_digits_is_detected(whole: Part) -> None:
    images, labels = digits()
    for label in range(10):
        assert found(whole, part_of(*without_label(images, labels, label)))["label_name"] == "error"
    assert found(whole, part_of(brighter(images, 0.1), labels))["brightness"] == "error"
    assert found(whole, part_of(brighter(images, -0.1), labels))["brightness"] == "error"
    assert found(whole, part_of(with_blanks(images, 0.01), labels)) == {"image": "error"}
    assert found(whole, whole) == {}


def test_random_halves_of_digits_raise_no_alarm() -> None:
    rng, groups = np.random.default_rng(0), groups_of(*digits(), seed=0)
    drawn = [halves(groups, rng) for _ in range(DRAWS)]
    assert sum(bool(found(*pair)) for pair in drawn) <= 1
    # The control: without regard to the noise, nearly every pair raises an alarm.
    limits = ValidateConfig()
    raw = [measure(a[0], b[0], (dict(a[1]), dict(b[1])), limits) for a, b in drawn]
    assert sum(any(part.value > (part.most or 0.0) * WARNING_SHARE for part in parts) for parts in raw) > 90


@pytest.fixture(scope="module")
def fashion(fashion_mnist: Path) -> tuple[Images, Labels]:
    """The 60,000 training images of Fashion-MNIST."""
    pixels = gzip.decompress((fashion_mnist / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((fashion_mnist / "train-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(pixels, np.uint8, offset=16).reshape(60_000, 28, 28, 1)
    return images, np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)


@pytest.mark.heavy
def test_planted_drift_of_fashion_mnist_is_detected(fashion: tuple[Images, Labels]) -> None:
    images, labels = fashion
    whole = part_of(images, labels)
    assert found(whole, part_of(*without_label(images, labels, 6)))["label_name"] == "error"
    assert found(whole, part_of(brighter(images, 0.1), labels))["brightness"] == "error"
    assert found(whole, part_of(with_blanks(images, 0.01), labels))["image"] == "error"


@pytest.mark.heavy
def test_random_halves_of_fashion_mnist_raise_no_alarm(fashion: tuple[Images, Labels]) -> None:
    rng, groups = np.random.default_rng(0), groups_of(*fashion, seed=0)
    assert sum(bool(found(*halves(groups, rng))) for _ in range(DRAWS)) <= 1
