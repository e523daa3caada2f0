"""The score while training: which moment is kept, and when it is time to stop."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from components.train.monitor import Judge, Scored, best_of, got_worse, is_due, patience_is_over


def scored(*kids: float, std: float = 0.01) -> list[Scored]:
    return [Scored(round=index, images_seen=index * 100, kid=kid, kid_std=std) for index, kid in enumerate(kids, start=1)]


def test_real_digits_score_better_than_noise_and_than_a_dropped_mode() -> None:
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)[..., None]
    judge = Judge(images[:600])
    real = judge.score(images[600:1200], 1, 1)
    noise = judge.score(np.random.default_rng(0).integers(0, 256, images[:600].shape).astype(np.uint8), 1, 1)
    ones = judge.score(images[digits.target == 1], 1, 1)
    assert abs(real.kid) < 4 * real.kid_std + 0.01
    assert real.kid < ones.kid < noise.kid
    assert judge.score(images[600:1200], 1, 1) == real, "the same images, the same score"


def test_the_lowest_is_best_and_the_earliest_of_equals() -> None:
    assert best_of(scored(0.5, 0.2, 0.3, 0.2)).round == 2


def test_only_worse_beyond_noise_is_worse() -> None:
    assert got_worse(scored(0.1, 0.2, std=0.01))
    assert not got_worse(scored(0.1, 0.12, std=0.01)), "two standard errors of the difference are 0.028"
    assert not got_worse(scored(0.3, 0.2))


def test_patience() -> None:
    assert not patience_is_over(scored(0.1, 0.2, 0.3), patience=0)
    assert not patience_is_over(scored(0.1, 0.2), patience=2)
    assert patience_is_over(scored(0.1, 0.2, 0.3), patience=2)
    assert not patience_is_over(scored(0.2, 0.3, 0.1), patience=2)


def test_due_when_a_multiple_was_passed() -> None:
    assert is_due(900, 1000, 1000)
    assert not is_due(1000, 1900, 1000)
    assert is_due(900, 3100, 1000)
    assert not is_due(0, 10_000, 0)
