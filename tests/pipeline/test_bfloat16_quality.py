"""Training in bfloat16 is as good as in float32: after equal rounds, KID is not worse by more than the noise between seeds."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from components.train import loop, step
from components.train.config import TrainConfig
from components.train.data.resident import Resident
from components.train.devices import host_call
from components.train.monitor import SAMPLES, Monitor
from components.train.networks import ImageShape
from components.train.saving import variables
from components.train.saving.export import Generator

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]
SEEDS = (0, 1, 2)
ROUNDS = 400


def kid_after_training(precision: str, seed: int, images: np.ndarray, monitor: Monitor) -> float:
    config = TrainConfig(
        precision=precision, seed=seed, rounds=ROUNDS, log_every_rounds=100, checkpoint_every_rounds=100,
        sample_every_rounds=100, n_critic=2, global_batch_size=32, generator_channels=16, critic_channels=16, latents=16,
        critic_learning_rate=1e-3, generator_learning_rate=1e-3, ema_halflife_rounds=50,
    )  # fmt: skip
    shape, strategy = ImageShape(8, 1), tf.distribute.get_strategy()
    state = step.make_state(shape, config, strategy)
    labels = np.full(len(images), -1)
    source = Resident(images, labels, seed=seed, n_critic=config.n_critic, batch_size=config.global_batch_size)
    call = host_call.make_call(state, config, strategy, source)
    for first_round in range(0, ROUNDS, config.rounds_a_call):
        loop.run_call(call, config, source, first_round)
    generator = Generator(shape, config)
    generator.set_weights(variables.averages(state))
    return monitor.score(generator.draw(seed, SAMPLES), ROUNDS, 0).kid


def test_kid_is_not_worse_beyond_noise() -> None:
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)[..., None]
    monitor = Monitor(images[1400:])
    kids = {
        precision: [kid_after_training(precision, seed, images[:1400], monitor) for seed in SEEDS]
        for precision in ("float32", "bfloat16")
    }
    print(kids)
    untrained = monitor.score(np.random.default_rng(0).integers(0, 256, (SAMPLES, 8, 8, 1)).astype(np.uint8), 0, 0).kid
    difference = np.mean(kids["bfloat16"]) - np.mean(kids["float32"])
    noise = np.sqrt(sum(np.var(values, ddof=1) / len(values) for values in kids.values()))
    assert difference < 3.0 * noise
    assert noise < 0.1 * untrained, "the noise must be small enough for the comparison to mean something"
    assert max(np.mean(values) for values in kids.values()) < 0.3 * untrained, "both must have learned something"
