"""A training small enough for eight replicas on two cores, and the comparison of two trainings.

Of the parity tests, only this file depends on the signatures of components.train.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from components.train import networks, noise, step
from components.train.config import TrainConfig
from components.train.data.resident import Resident
from components.train.devices import host_call
from components.train.devices.strategy import make_strategy
from components.train.layers.activations import Leaky, Normalised
from components.train.networks import ImageShape, generate
from components.train.saving import variables

Arrays = dict[str, npt.NDArray[Any]]

CLASSES = 5
BATCH = 16
ROUNDS = 20
IMAGES = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1)).astype(np.uint8)
LABELS = np.arange(100) % CLASSES
TOLERANCE = 1e-5  # for float32 sums in another order
SMALL = 1e-3  # weights are around 0.1; near zero, the absolute tolerance is SMALL · TOLERANCE


def config_for(replicas: int, **changes: Any) -> TrainConfig:
    settings = {
        "devices": f"cpu:{replicas}", "global_batch_size": BATCH, "n_critic": 1, "latents": 8, "optimizer": "sgd",
        "generator_channels": 8, "critic_channels": 8, "rounds": step.COMPILED_ROUNDS, "log_every_rounds": ROUNDS,
        "checkpoint_every_rounds": ROUNDS, "sample_every_rounds": ROUNDS, "critic_learning_rate": 1e-2,
        "generator_learning_rate": 1e-2,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def shape_for(config: TrainConfig) -> ImageShape:
    return ImageShape(8, 1, CLASSES if config.conditional else 0)


def smooth_state(config: TrainConfig, strategy: tf.distribute.Strategy) -> step.State:
    """Return the initial state, with a smooth function (SiLU) instead of the leaky ReLU.

    The derivative of the leaky ReLU jumps at zero. Sums in another order move an input by 1e-8, sometimes across the jump,
    which no tolerance can allow for: it happened in 1 of 16 trainings of this size, and moved a bias by 2e-3. See
    docs/decisions/0004.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "Leaky", lambda *_, **settings: keras.layers.Activation("silu", **settings))
        state = step.make_state(shape_for(config), config, strategy)
    layers = [*state.generator.layers, *state.critic.layers]
    layers += [layer.activation for layer in layers if isinstance(layer, Normalised)]
    assert not any(isinstance(layer, Leaky) for layer in layers)
    assert sum(layer.name.startswith("leaky") for layer in layers) >= 4
    return state


def trained(replicas: int, **changes: Any) -> tuple[Arrays, Arrays]:
    """Return all variables after ROUNDS rounds, and all metrics, [ROUNDS] each."""
    config = config_for(replicas, **changes)
    strategy = make_strategy(config)
    state = smooth_state(config, strategy)
    source = Resident(IMAGES, LABELS, seed=config.seed, n_critic=config.n_critic, batch_size=config.global_batch_size)
    call = host_call.make_call(state, config, strategy, source)
    metrics = call(source.take(0, ROUNDS), tf.constant(0)).numpy()
    return variables.state_arrays(state), dict(zip(step.METRICS, metrics.T, strict=True))


def first_step(replicas: int, **changes: Any) -> Arrays:
    """Return the gradients, losses, gap and penalty of the first step, before any update, with the original networks.

    Gradients are summed over replicas; losses are the sums of the replicas' parts, like in the loop.
    """
    config = config_for(replicas, **changes)
    strategy = make_strategy(config)
    state = step.make_state(shape_for(config), config, strategy)

    @tf.function
    def on_replicas() -> Any:
        gradients, parts = strategy.run(lambda: _replica_step(state, config))
        return strategy.experimental_local_results(gradients)[0], strategy.reduce("SUM", parts, axis=None)

    gradients, parts = on_replicas()
    variables = [*state.critic.trainable_variables, *state.generator.trainable_variables]
    names = [f"gradient/{index:02d}/{variable.path}" for index, variable in enumerate(variables)]
    return {name: value.numpy() for name, value in {**dict(zip(names, gradients, strict=True)), **parts}.items()}


def _replica_step(state: step.State, config: TrainConfig) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
    rows = step.own_rows(config)
    latents, alphas = noise.round_noise(config.seed, 0, rows, config.n_critic, config.latents)
    real_images = step.to_float(rows.of(tf.constant(IMAGES[:BATCH])))
    labels = rows.of(tf.constant(LABELS[:BATCH], tf.int32))
    fake_images = generate(state.generator, latents[0], labels)
    examples = step.Examples(real_images, fake_images, alphas[0], labels)
    critic, (critic_loss, gap, penalty) = step.critic_gradients(state, config, examples, config.penalty_weight)
    generator, generator_loss = step.generator_gradients(state, config, latents[0], labels)
    parts = {"critic_loss": critic_loss, "wasserstein_gap": gap, "penalty": penalty, "generator_loss": generator_loss}
    return [*step.summed(critic), *step.summed(generator)], parts


def assert_parity(one: Arrays, other: Arrays, tolerance: float = TOLERANCE) -> None:
    """Raise AssertionError, with the names and differences, unless all arrays differ by less than `tolerance`.

    Differences are relative to the largest entry of an array, because small entries may be the result of cancellation.
    """
    assert one.keys() == other.keys()
    differences = {name: difference(one[name], other[name]) for name in one}
    apart = [f"{name} by {each:.1e}" for name, each in differences.items() if not each < tolerance]
    assert not apart, f"{len(apart)} of {len(one)} arrays differ: {', '.join(apart)}"


def difference(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Return the largest difference relative to the largest entry, or to SMALL if that is larger.

    Infinite where shapes differ or a value is not finite.
    """
    if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("inf")
    return float(np.abs(one - other).max() / max(np.abs(one).max(), SMALL))
