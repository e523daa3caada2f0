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
