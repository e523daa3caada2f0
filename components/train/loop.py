"""The training loop, top to bottom: many rounds a host call, and after each call a few numbers are read and looked at."""

from __future__ import annotations

import datetime
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from pydantic import BaseModel, ConfigDict

from components.common.errors import TrainingDivergedError
from components.train import noise, step
from components.train.config import TrainConfig
from components.train.data.on_device import OnDevice, placed
from components.train.data.sources import Source, rounds_that_fit

Call = Callable[[tuple[tf.Tensor, ...], tf.Tensor], tf.Tensor]


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
        return rounds_in_call(config, self.round) / self.seconds


def make_call(state: step.State, config: TrainConfig, strategy: tf.distribute.Strategy, source: Source) -> Call:
    """Return the function of a host call: what `source.take` gives for R rounds, and the first round, to METRICS [R, 6]."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return make_device_call(state, config, strategy, placed(source, strategy))

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def call(taken: tuple[tf.Tensor, ...], first_round: tf.Tensor) -> tf.Tensor:
        rounds = tf.shape(taken[0])[0]
        metrics = tf.TensorArray(tf.float32, size=rounds, element_shape=[len(step.METRICS)])
        for offset in tf.range(rounds):
            round_index = first_round + offset
            batch = source.batch(taken, offset)
            seed = noise.round_seed(config.seed, round_index)
            parts, whole = strategy.run(lambda *args: step.train_round(state, config, *args), args=(batch, seed, round_index))
            row = [strategy.reduce("SUM", parts, axis=None), strategy.reduce("MEAN", whole, axis=None)]
            metrics = metrics.write(offset, tf.concat(row, axis=0))
        return metrics.stack()

    return call  # type: ignore[no-any-return]


def make_device_call(state: step.State, config: TrainConfig, strategy: tf.distribute.Strategy, source: OnDevice) -> Call:
    """Return the same function with its loop on the devices: the host hears nothing between the first round and the last.

    MirroredStrategy cannot do this: its all_reduce leaves the replica, which no loop may do.
    """

    @tf.function  # type: ignore[untyped-decorator]
    def call(taken: tuple[tf.Tensor, ...], first_round: tf.Tensor) -> tf.Tensor:
        arguments = source.arguments(taken)
        run = lambda *args: rounds_on_device(state, config, source, *args)  # noqa: E731
        parts, whole = strategy.run(run, args=(arguments, first_round))
        columns = [strategy.reduce("SUM", parts, axis=None), strategy.reduce("MEAN", whole, axis=None)]
        return tf.concat(columns, axis=1)

    return call  # type: ignore[no-any-return]


def rounds_on_device(
    state: step.State, config: TrainConfig, source: OnDevice, arguments: tuple[tf.Tensor, ...], first_round: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Do the R rounds of a host call in replica context; return this replica's PART_METRICS [R, 4] and WHOLE_METRICS [R, 2].

    `arguments` are of static shape: a TPU compiles for one R, and again for the last call of a training if that is shorter.
    """
    rounds = int(arguments[0].shape[0])

    def one(offset: tf.Tensor, parts: tf.TensorArray, whole: tf.TensorArray) -> tuple[Any, ...]:
        round_index = first_round + offset
        seed = noise.round_seed(config.seed, round_index)
        here = step.train_round(state, config, source.batch(arguments, offset), seed, round_index)
        return offset + 1, parts.write(offset, here[0]), whole.write(offset, here[1])

    rows = [tf.TensorArray(tf.float32, rounds, element_shape=[len(names)]) for names in (step.PART_METRICS, step.WHOLE_METRICS)]
    start = (tf.constant(0), *rows)
    _, parts, whole = tf.while_loop(lambda offset, *_: offset < rounds, one, start, maximum_iterations=rounds)
    return parts.stack(), whole.stack()


def run_call(call: Call, config: TrainConfig, source: Source, first_round: int) -> Logged:
    """Do the rounds of one host call, from `first_round` on; read the numbers back, so that time and errors are real.

    Raises TrainingDivergedError, naming the round, when a metric is not finite.
    """
    started = time.monotonic()
    rounds = min(config.rounds_a_call, config.rounds - first_round)
    taken = source.take(first_round, rounds)
    values = call(taken, tf.constant(first_round, tf.int32)).numpy().astype(np.float64)
    check_finite(values, first_round)
    last_round = first_round + rounds
    means = dict(zip(step.METRICS, values.mean(axis=0).tolist(), strict=True))
    seconds = round(time.monotonic() - started, 4)
    return Logged(round=last_round, images_seen=images_seen(config, last_round), seconds=seconds, **means)


def rounds_in_call(config: TrainConfig, last_round: int) -> int:
    """Return how many rounds the call had that ended with `last_round`: the last call of a training may be short."""
    return (last_round - 1) % config.rounds_a_call + 1


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


def rounds_a_call(config: TrainConfig, source: Source) -> int:
    """Return the rounds of a host call: as asked, else those between two log lines, or fewer when their images are many."""
    return rounds_within(config, rounds_that_fit(source.bytes_per_round))


def rounds_within(config: TrainConfig, fitting: int) -> int:
    """Return the rounds of a host call where `fitting` is how many rounds' images it should take along at most."""
    if config.rounds_per_call or fitting >= config.log_every_rounds:
        return config.rounds_a_call
    between_lines, multiple = config.log_every_rounds, config.penalty_every_rounds
    possible = [rounds for rounds in range(multiple, between_lines, multiple) if between_lines % rounds == 0]
    return max((rounds for rounds in possible if rounds <= fitting), default=possible[0] if possible else between_lines)


def tick_text(logged: Logged, config: TrainConfig) -> str:
    """Return what the user sees of a call."""
    speed = logged.speed(config)
    left = str(datetime.timedelta(seconds=round((config.rounds - logged.round) / speed)))
    return (
        f"rounds · {logged.images_seen:,} images · {speed:.1f} rounds/s · gap {logged.wasserstein_gap:.3f}"
        f" · penalty {logged.penalty:.4f} · {left} left · {resident_bytes() / 1e9:.1f} GB"
    )


def resident_bytes() -> int:
    """Return the memory that this process holds; its highest so far where the system does not tell the present one."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def state_arrays(state: step.State) -> dict[str, npt.NDArray[Any]]:
    """Return every variable of the state by name: networks, moving average and both optimizers."""
    return {name: variable.numpy() for name, variable in _variables(state)}


def averages(state: step.State) -> list[npt.NDArray[Any]]:
    """Return the moving average of the generator's weights."""
    return [variable.numpy() for variable in state.ema_generator.variables]


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
