"""The training loop, top to bottom: many rounds a host call, and after each call a few numbers are read and looked at."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from pydantic import BaseModel, ConfigDict

from components.errors import TrainingDivergedError
from components.train import noise, step
from components.train.config import TrainConfig

Call = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class Logged(BaseModel):
    """A line of metrics.jsonl, the end of a host call: METRICS are means over the rounds of the call."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    round: int
    images_seen: int
    critic_loss: float
    wasserstein_gap: float
    penalty: float
    critic_grad_norm: float
    generator_loss: float
    generator_grad_norm: float
    seconds: float

    def speed(self, config: TrainConfig) -> float:
        """Return the rounds per second of this call."""
        rounds_in_call = (self.round - 1) % config.rounds_a_call + 1
        return rounds_in_call / self.seconds


def make_call(state: step.State, config: TrainConfig, strategy: tf.distribute.Strategy, images: npt.NDArray[np.uint8]) -> Call:
    """Return the function of a host call: indices int32 [R, n_critic, B] and the first round to METRICS [R, 6].

    The dataset stays in memory as uint8; a batch is gathered by index and made float on the device.
    """
    dataset = tf.constant(images)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def call(indices: tf.Tensor, first_round: tf.Tensor) -> tf.Tensor:
        rounds = tf.shape(indices)[0]
        metrics = tf.TensorArray(tf.float32, size=rounds, element_shape=[len(step.METRICS)])
        for offset in tf.range(rounds):
            round_index = first_round + offset
            batches = tf.ensure_shape(
                tf.gather(dataset, indices[offset]), [config.n_critic, config.global_batch_size, *images.shape[1:]]
            )
            seed = noise.round_seed(config.seed, round_index)
            parts, whole = strategy.run(lambda *args: step.train_round(state, config, *args), args=(batches, seed, round_index))
            row = [strategy.reduce("SUM", parts, axis=None), strategy.reduce("MEAN", whole, axis=None)]
            metrics = metrics.write(offset, tf.concat(row, axis=0))
        return metrics.stack()

    return call  # type: ignore[no-any-return]


def run_call(call: Call, config: TrainConfig, dataset_images: int, first_round: int) -> Logged:
    """Do the rounds of one host call, from `first_round` on; read the numbers back, so that time and errors are real.

    Raises TrainingDivergedError, naming the round, when a metric is not finite.
    """
    started = time.monotonic()
    rounds = min(config.rounds_a_call, config.rounds - first_round)
    order = noise.batch_indices(
        config.seed, dataset_images, first_round * config.n_critic, rounds * config.n_critic, config.global_batch_size
    )
    indices = tf.constant(order.reshape(rounds, config.n_critic, config.global_batch_size))
    values = call(indices, tf.constant(first_round, tf.int32)).numpy().astype(np.float64)
    check_finite(values, first_round)
    last_round = first_round + rounds
    means = dict(zip(step.METRICS, values.mean(axis=0).tolist(), strict=True))
    seconds = round(time.monotonic() - started, 4)
    return Logged(round=last_round, images_seen=images_seen(config, last_round), seconds=seconds, **means)


def images_seen(config: TrainConfig, rounds: int) -> int:
    """Return how many real images the critic has seen after `rounds`, repeats counted."""
    return rounds * config.n_critic * config.global_batch_size


def check_finite(values: npt.NDArray[np.float64], first_round: int) -> None:
    """Refuse metrics [R, 6] that are not finite. Raises TrainingDivergedError with rounds, name and value."""
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        offset, column = (int(index) for index in broken[0])
        raise diverged(
            f"{step.METRICS[column]} is {values[offset, column]} in round {first_round + offset + 1}",
            (first_round, first_round + len(values)),
            [
                {"round": first_round + done} | dict(zip(step.METRICS, row.tolist(), strict=True))
                for done, row in enumerate(values, start=1)
            ],
        )


def diverged(what: str, between: tuple[int, int], evidence: Sequence[Mapping[str, Any]]) -> TrainingDivergedError:
    """Return the error of a training that was sound after the first of two rounds and broken after the second."""
    return TrainingDivergedError(
        f"Training broke between round {between[0]} and round {between[1]}: {what}.",
        "Lower train.critic_learning_rate and train.generator_learning_rate, or raise train.penalty_weight.",
        evidence,
    )


def make_weights_check(state: step.State, strategy: tf.distribute.Strategy) -> Callable[[], list[str]]:
    """Return a function that names the variables, optimizers' included, that are not finite on some replica.

    The devices look at the values; a number a variable is read back.
    """
    named = [(name, variable) for name, variable in _variables(state) if "float" in str(variable.dtype)]

    def on_a_replica() -> tf.Tensor:
        sound = [tf.reduce_all(tf.math.is_finite(variable.value)) for _, variable in named]
        return 1 - tf.cast(tf.stack(sound), tf.int32)

    @tf.function  # type: ignore[untyped-decorator]
    def broken_replicas() -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(on_a_replica), axis=None)

    return lambda: [name for (name, _), replicas in zip(named, broken_replicas().numpy(), strict=True) if replicas]


def tick_text(logged: Logged, config: TrainConfig) -> str:
    """Return what the user sees of a call."""
    return (
        f"rounds · {logged.images_seen:,} images · {logged.speed(config):.1f} rounds/s"
        f" · gap {logged.wasserstein_gap:.3f} · penalty {logged.penalty:.4f}"
    )


def state_arrays(state: step.State) -> dict[str, npt.NDArray[Any]]:
    """Return every variable of the state by name: networks, moving average and both optimizers."""
    return {name: variable.numpy() for name, variable in _variables(state)}


def load_arrays(state: step.State, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Set every variable of the state from `arrays`, which must have the same names and shapes. Raises KeyError, ValueError."""
    for name, variable in _variables(state):
        variable.assign(arrays[name])


def _variables(state: step.State) -> list[tuple[str, Any]]:
    named = []
    for part in state._fields:
        owner = getattr(state, part)
        named += [(f"{part}/{index:03d}/{variable.name}", variable) for index, variable in enumerate(owner.variables)]
    return named
