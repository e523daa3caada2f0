"""N replicas train like one: gradients, losses, penalty, weights and metrics are those of one replica."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.train import step
from components.train.data.resident import Resident
from components.train.devices import host_call
from components.train.devices.strategy import make_strategy
from components.train.saving import variables
from tests.parity.training import (
    IMAGES,
    LABELS,
    ROUNDS,
    TOLERANCE,
    Arrays,
    assert_parity,
    config_for,
    difference,
    first_step,
    shape_for,
    smooth_state,
    trained,
)

on_replicas = pytest.mark.parametrize("replicas", [2, *(pytest.param(count, marks=pytest.mark.heavy) for count in (4, 8))])
ADAM: dict[str, Any] = {"optimizer": "adam", "critic_learning_rate": 5e-4, "generator_learning_rate": 5e-4}


@on_replicas
def test_gradients_losses_and_penalty_equal_those_of_one_replica(replicas: int, one_first_step: Arrays) -> None:
    assert_parity(one_first_step, first_step(replicas))


@on_replicas
def test_weights_and_metrics_with_sgd_equal_those_of_one_replica(replicas: int, one_trained: tuple[Arrays, Arrays]) -> None:
    """Unlike Adam, SGD depends on the scale of gradients."""
    arrays, metrics = trained(replicas)
    assert_parity(one_trained[0], arrays)
    assert_parity(one_trained[1], metrics)


@pytest.fixture(scope="module")
def one_adam() -> Arrays:
    return trained(1, **ADAM)[1]


@on_replicas
def test_metrics_with_adam_equal_those_of_one_replica(replicas: int, one_adam: Arrays) -> None:
    assert_parity(one_adam, trained(replicas, **ADAM)[1], tolerance=1e-3)


@pytest.mark.parametrize("decay_share", [0.0, 1.0])
def test_all_replicas_have_the_same_bits(decay_share: float) -> None:
    """A checkpoint has the variables of the first replica, and a training must resume from it with the same bits."""
    config = config_for(2, **ADAM, beta_1=0.0, n_critic=2, decay_share=decay_share)
    strategy = make_strategy(config)
    state = step.make_state(shape_for(config), config, strategy)
    source = Resident(IMAGES, LABELS, seed=config.seed, n_critic=config.n_critic, batch_size=config.global_batch_size)
    host_call.make_call(state, config, strategy, source)(source.take(0, 100), tf.constant(0))
    for name, variable in variables.named_variables(state):
        first, second = (copy.numpy() for copy in strategy.experimental_local_results(variable.value))
        assert first.tobytes() == second.tobytes(), name


FAMILIES: dict[str, dict[str, Any]] = {  # those with `rounds` have too few for compiled layers
    "three critic steps": {"n_critic": 3, "rounds": ROUNDS},
    "residual, conditional": {"networks": "residual", "conditional": True},
    "clip": {"lipschitz": "clip", "clip_value": 0.05, "rounds": ROUNDS},
    "falling rates": {"decay_share": 1.0, "rounds": ROUNDS},
    "lazy penalty, conditional": {"penalty_every_rounds": 2, "conditional": True, "rounds": ROUNDS},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_train_like_on_one_replica(family: str) -> None:
    one, other = (trained(replicas, **FAMILIES[family]) for replicas in (1, 2))
    assert_parity(one[0], other[0])
    assert_parity(one[1], other[1])


def test_the_comparison_is_not_trivial(one_first_step: Arrays, one_trained: tuple[Arrays, Arrays]) -> None:
    """Gradients are not zero, weights moved by a thousand tolerances, and each round has metrics."""
    still = [name for name, array in one_first_step.items() if not np.abs(array).max() > 1e-3]
    assert still == ["gradient/05/score/bias"]  # it adds the same constant to real and fake scores
    config = config_for(1)
    start = variables.state_arrays(smooth_state(config, make_strategy(config)))
    moved = {name for name, array in start.items() if difference(array, one_trained[0][name]) > 1000 * TOLERANCE}
    kernels = {name for name in start if name.endswith("/kernel") and not name.startswith("critic_optimizer")}
    assert moved >= kernels
    assert {name.split("/")[0] for name in kernels} == {"generator", "critic", "ema_generator"}
    assert {values.shape for values in one_trained[1].values()} == {(ROUNDS,)}
    assert all(len(np.unique(values)) == ROUNDS for values in one_trained[1].values())


class TestComparison:
    one = {"weights": np.array([1.0, -2.0]), "bias": np.array([0.0])}  # noqa: RUF012

    def test_accepts_rounding(self) -> None:
        assert_parity(self.one, {"weights": np.array([1.0, -2.0 + 1e-5]), "bias": np.array([0.0])})

    @pytest.mark.parametrize(
        "other",
        [
            {"weights": np.array([1.0, -2.0001]), "bias": np.array([0.0])},
            {"weights": np.array([1.0, np.nan]), "bias": np.array([0.0])},
            {"weights": np.array([1.0]), "bias": np.array([0.0])},
            {"weights": np.array([1.0, -2.0]), "bias": np.array([1e-7])},
            {"weights": np.array([1.0, -2.0])},
        ],
        ids=["more than the tolerance", "not finite", "another shape", "not zero", "a missing array"],
    )
    def test_detects_differences(self, other: Arrays) -> None:
        with pytest.raises(AssertionError):
            assert_parity(self.one, other)
