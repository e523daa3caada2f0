"""N replicas train as one: gradients, metrics and weights are those of one replica (SGD, which sees scale; float32)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.train import loop, losses, noise, step
from components.train.config import TrainConfig
from components.train.networks import ImageShape
from components.train.strategy import make_strategy

SHAPE = ImageShape(8, 1)
ROUNDS = 10
IMAGES = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1)).astype(np.uint8)
TOLERANCE = 1e-5  # relative to the largest entry; float32 sums in another order


def config_for(replicas: int, **changes: Any) -> TrainConfig:
    settings = {
        "devices": f"cpu:{replicas}", "global_batch_size": 16, "n_critic": 2, "latents": 8, "optimizer": "sgd",
        "generator_channels": 8, "critic_channels": 8, "rounds": ROUNDS, "log_every_rounds": ROUNDS,
        "checkpoint_every_rounds": ROUNDS, "sample_every_rounds": ROUNDS, "critic_learning_rate": 2e-3,
        "generator_learning_rate": 2e-3,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def trained(replicas: int, **changes: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return all variables and the metrics of every round after ROUNDS rounds."""
    config = config_for(replicas, **changes)
    strategy = make_strategy(config)
    state = step.make_state(SHAPE, config, strategy)
    call = loop.make_call(state, config, strategy, IMAGES)
    order = noise.batch_indices(config.seed, len(IMAGES), 0, ROUNDS * config.n_critic, config.global_batch_size)
    indices = order.reshape(ROUNDS, config.n_critic, config.global_batch_size)
    metrics = call(tf.constant(indices), tf.constant(0)).numpy()
    return loop.state_arrays(state), metrics


def raw_gradients(replicas: int) -> list[np.ndarray]:
    """Return the critic's and the generator's gradients of the first step, summed over replicas."""
    config = config_for(replicas)
    strategy = make_strategy(config)
    state = step.make_state(SHAPE, config, strategy)

    @tf.function
    def gradients() -> Any:
        def on_replica() -> Any:
            replica_id, count = step._replica()
            whole = noise.critic_noise(noise.round_seed(0, 0), 0, 16, config.latents)
            mine = noise.CriticNoise(*(noise.replica_rows(part, replica_id, count) for part in whole))
            images = step.to_float(noise.replica_rows(tf.constant(IMAGES[:16]), replica_id, count))
            critic, _ = step.critic_gradients(state, config, images, mine)
            generator, _ = step.generator_gradients(state, config, mine.latents)
            return critic + generator

        return strategy.run(on_replica)

    return [strategy.experimental_local_results(each)[0].numpy() for each in gradients()]


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference relative to the largest entry."""
    return float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-6))


@pytest.fixture(scope="module")
def one_replica() -> tuple[dict[str, np.ndarray], np.ndarray]:
    return trained(1)


@pytest.mark.parametrize("replicas", [2, 4])
def test_raw_gradients_are_those_of_one_replica(replicas: int) -> None:
    for one, other in zip(raw_gradients(1), raw_gradients(replicas), strict=True):
        assert difference(one, other) < TOLERANCE


@pytest.mark.parametrize("replicas", [2, 4])
def test_weights_and_metrics_are_those_of_one_replica(replicas: int, one_replica: Any) -> None:
    arrays, metrics = trained(replicas)
    assert arrays.keys() == one_replica[0].keys()
    assert max(difference(one_replica[0][name], arrays[name]) for name in arrays) < TOLERANCE
    np.testing.assert_allclose(metrics, one_replica[1], rtol=1e-3, atol=1e-5)


def test_the_weights_did_move(one_replica: Any) -> None:
    start = loop.state_arrays(step.make_state(SHAPE, config_for(1), make_strategy(config_for(1))))
    moved = [name for name, array in start.items() if difference(array, one_replica[0][name]) > 100 * TOLERANCE]
    assert {name.split("/")[0] for name in moved} >= {"generator", "critic", "ema_generator"}


def test_dividing_by_the_replicas_own_batch_is_noticed(monkeypatch: pytest.MonkeyPatch, one_replica: Any) -> None:
    monkeypatch.setattr(losses, "replica_mean", lambda per_example, _: tf.reduce_mean(per_example))
    arrays, _ = trained(2)
    assert max(difference(one_replica[0][name], arrays[name]) for name in arrays) > 10 * TOLERANCE


def test_equal_noise_on_every_replica_is_noticed(monkeypatch: pytest.MonkeyPatch, one_replica: Any) -> None:
    real = noise.replica_rows
    monkeypatch.setattr(noise, "replica_rows", lambda whole, _, replicas: real(whole, tf.constant(0), replicas))
    arrays, _ = trained(2)
    assert max(difference(one_replica[0][name], arrays[name]) for name in arrays) > 10 * TOLERANCE


def test_reducing_gradients_twice_is_noticed(monkeypatch: pytest.MonkeyPatch, one_replica: Any) -> None:
    """Fails too if Keras stops calling the private method that step.py overrides: then gradients are summed twice."""
    monkeypatch.delattr(step._GradientsAreSummed, "_all_reduce_sum_gradients")
    arrays, _ = trained(2)
    assert max(difference(one_replica[0][name], arrays[name]) for name in arrays) > 10 * TOLERANCE


def test_adam_reports_the_same_metrics() -> None:
    _, one = trained(1, optimizer="adam", critic_learning_rate=1e-4, generator_learning_rate=1e-4)
    _, two = trained(2, optimizer="adam", critic_learning_rate=1e-4, generator_learning_rate=1e-4)
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)
