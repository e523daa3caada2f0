"""The score during training: which round is exported, and when training stops."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from components.train.config import TrainConfig
from components.train.monitor import Monitor, is_due
from components.train.progress import Progress, ScoreLine


def scored(*kids: float, std: float = 0.01) -> Progress:
    lines = [ScoreLine(round=index, images_seen=index * 100, kid=kid, kid_std=std) for index, kid in enumerate(kids, start=1)]
    return Progress(scores=lines)


def test_real_digits_score_better_than_noise_and_than_one_class() -> None:
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)[..., None]
    monitor = Monitor(images[:1200:2])
    real = monitor.score(images[1:1200:2], 1, 1)
    noise = monitor.score(np.random.default_rng(0).integers(0, 256, images[:600].shape).astype(np.uint8), 1, 1)
    ones = monitor.score(images[digits.target == 1], 1, 1)
    assert abs(real.kid) < 4 * real.kid_std + 0.01
    assert real.kid < ones.kid < noise.kid
    assert monitor.score(images[1:1200:2], 1, 1) == real, "equal images have equal scores"


def test_the_best_score_is_the_lowest_and_earliest() -> None:
    assert scored(0.5, 0.2, 0.3, 0.2).best_score().round == 2


def test_got_worse_means_by_more_than_noise() -> None:
    assert scored(0.1, 0.2, std=0.01).got_worse()
    assert not scored(0.1, 0.12, std=0.01).got_worse(), "two standard errors of the difference are 0.028"
    assert not scored(0.3, 0.2).got_worse()


def test_patience() -> None:
    assert not scored(0.1, 0.2, 0.3).out_of_patience(0)
    assert not scored(0.1, 0.2).out_of_patience(2)
    assert scored(0.1, 0.2, 0.3).out_of_patience(2)
    assert not scored(0.2, 0.3, 0.1).out_of_patience(2)


def test_a_score_is_due_after_each_multiple_and_at_the_end() -> None:
    def due(every: int, rounds: int) -> bool:
        config = TrainConfig(
            rounds=30, rounds_per_call=10, log_every_rounds=10, checkpoint_every_rounds=10, sample_every_rounds=10,
            n_critic=1, global_batch_size=10, score_every_images=every,
        )  # fmt: skip
        return is_due(config, rounds)

    assert due(100, 10)  # 0 to 100 images
    assert not due(150, 10)
    assert due(150, 20)
    assert not due(500, 20)
    assert due(500, 30), "it is the last call"
    assert not due(0, 30)
