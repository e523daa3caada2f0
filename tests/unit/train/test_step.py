"""The optimizer of a round."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.train import step
from components.train.config import TrainConfig


@pytest.mark.parametrize("beta_1", [0.0, 0.5])
def test_adam_updates_as_that_of_keras_with_and_without_a_first_moment(beta_1: float) -> None:
    config = TrainConfig(beta_1=beta_1, devices="tpu")
    ours, theirs = step._make_optimizer(config, 1e-2), keras.optimizers.Adam(1e-2, beta_1, config.beta_2)
    variables = [[keras.Variable(np.ones(5, np.float32))] for _ in range(2)]
    draw = np.random.default_rng(0)
    for optimizer, own in zip((ours, theirs), variables, strict=True):
        optimizer.build(own)
    for _ in range(20):
        gradient = tf.constant(draw.normal(size=5), tf.float32)
        for optimizer, own in zip((ours, theirs), variables, strict=True):
            optimizer.apply([gradient], own)
    (mine,), (others,) = variables
    np.testing.assert_allclose(mine, others, rtol=1e-6)
    assert np.abs(np.asarray(others) - 1.0).min() > 1e-3
    moments = np.asarray(ours._momentums[0])
    assert moments.any() == bool(beta_1), "without a first moment, its variables are not written"


@pytest.mark.parametrize(
    ("decay_share", "shares"),
    [(0.5, [1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]), (1.0, np.linspace(1, 0.1, 10)), (0.1, np.ones(10))],
)
def test_the_learning_rates_fall_at_the_end_of_a_training(decay_share: float, shares: list[float]) -> None:
    config = TrainConfig(rounds=10, decay_share=decay_share)
    found = [step.rate_share(config, tf.constant(index)) for index in range(10)]
    np.testing.assert_allclose(found, shares, rtol=1e-6)


def test_the_learning_rates_do_not_fall_by_default() -> None:
    assert step.rate_share(TrainConfig(), tf.constant(0)) is None
    assert step.rate_share(TrainConfig(rounds=3, decay_share=0.1), tf.constant(0)) is None, "less than half a round"


@pytest.mark.parametrize("changes", [{}, {"devices": "tpu"}, {"optimizer": "sgd"}], ids=str)
def test_an_update_with_half_of_the_rate_is_that_of_half_the_rate(changes: dict[str, str]) -> None:
    config = TrainConfig(**changes)
    optimizers = [step._make_optimizer(config, rate) for rate in (1e-2, 5e-3)]
    optimizers[0].rate_share = tf.constant(0.5)
    updated = [keras.Variable(np.ones(5, np.float32)) for _ in optimizers]
    for optimizer, variable in zip(optimizers, updated, strict=True):
        optimizer.build([variable])
        optimizer.apply([tf.constant([1.0, -2.0, 3.0, -4.0, 5.0])], [variable])
    np.testing.assert_allclose(*updated, rtol=1e-7)
    assert np.abs(np.asarray(updated[0]) - 1.0).min() > 1e-3
