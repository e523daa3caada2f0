"""The intervals of FID and KID contain the score of the distributions."""

from __future__ import annotations

import numpy as np
import pytest

from components.evaluate.metrics import bootstrap, fid, kid

COUNT, WIDTH, TRIALS = 150, 6, 40


def drawn(generator: np.random.Generator, count: int, shift: float) -> np.ndarray:
    return generator.standard_normal((count, WIDTH)) + shift


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_most_intervals_contain_the_kid_of_the_distributions(shift: float) -> None:
    generator = np.random.default_rng(0)
    truth = kid.compute(drawn(generator, 6000, 0.0), drawn(generator, 6000, shift))
    hits = 0
    for trial in range(TRIALS):
        real, fake = drawn(generator, COUNT, 0.0), drawn(generator, COUNT, shift)
        low, high = bootstrap.kid_interval(real, fake, seed=trial)
        assert low < high
        hits += low <= truth <= high
    assert hits >= 0.85 * TRIALS  # with a coverage of 95 %, 34 or more of 40 are hits in 999 of 1,000 cases


def test_intervals_contain_the_score_and_shrink_with_more_images() -> None:
    generator = np.random.default_rng(1)
    widths = []
    for count in (100, 1600):
        real, fake = drawn(generator, count, 0.0), drawn(generator, count, 0.7)
        for metric, interval in ((kid.compute, bootstrap.kid_interval), (fid.compute, bootstrap.fid_interval)):
            ends = interval(real, fake, 0)
            assert ends is not None
            assert ends[0] < metric(real, fake) < ends[1]
            widths.append(ends[1] - ends[0])
    assert widths[2] < widths[0] / 2.5
    assert widths[3] < widths[1] / 2.5


def test_the_same_seed_gives_the_same_interval() -> None:
    generator = np.random.default_rng(2)
    real, fake = drawn(generator, 80, 0.0), drawn(generator, 90, 0.3)
    assert (
        bootstrap.kid_interval(real, fake, 3) == bootstrap.kid_interval(real, fake, 3) != bootstrap.kid_interval(real, fake, 4)
    )
    assert bootstrap.fid_interval(real, fake, 3) == bootstrap.fid_interval(real, fake, 3)


def test_the_interval_of_fid_is_that_of_images_drawn_one_by_one() -> None:
    generator = np.random.default_rng(6)
    real, fake = drawn(generator, 70, 5.0), drawn(generator, 50, 5.4)
    generator, score = np.random.default_rng(3), fid.compute(real, fake)
    scores = [
        fid.compute(real[generator.integers(0, 70, 70)], fake[generator.integers(0, 50, 50)])
        for _ in range(bootstrap.FID_REPLICATES)
    ]
    low, high = np.quantile(scores, bootstrap.ENDS) - np.mean(scores)
    assert bootstrap.fid_interval(real, fake, 3) == pytest.approx((max(0.0, score + low), score + high), rel=1e-9)


def test_fid_of_many_features_has_no_interval() -> None:
    wide = np.random.default_rng(0).standard_normal((20, bootstrap.MOST_FID_FEATURES + 1))
    assert bootstrap.fid_interval(wide, wide, 0) is None


def test_without_resampling_the_sums_are_kid() -> None:
    generator = np.random.default_rng(5)
    real, fake = drawn(generator, 70, 0.0), drawn(generator, 60, 0.4)
    ones_real, ones_fake = np.ones((1, 70)), np.ones((1, 60))
    mixed = bootstrap.pairs_between(real, fake, ones_real, ones_fake) / (60 * 70)
    found = bootstrap.mean_over_pairs(real, ones_real) + bootstrap.mean_over_pairs(fake, ones_fake) - 2 * mixed
    assert found[0] == pytest.approx(kid.compute(real, fake), rel=1e-9)
