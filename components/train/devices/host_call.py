"""A host call: many rounds on the devices, with their metrics read back once.

On a TPU the loop over the rounds is part of the program on the chips; elsewhere it is a loop of the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from components.train import noise, step
from components.train.config import TrainConfig
from components.train.data.on_device import OnDevice, placed
from components.train.data.source import Source, rounds_that_fit
from components.train.devices.host_code import Call, without_host_code
from components.train.saving.variables import named_variables


def make_call(state: step.State, config: TrainConfig, strategy: tf.distribute.Strategy, source: Source) -> Call:
    """Return the function of a host call: what `source.take` gives for R rounds, and the first round, to METRICS [R, 6].

    On a TPU it refuses host operations before its first run. Raises DeviceError then.
    """
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return without_host_code(make_device_call(state, config, strategy, placed(source, strategy)))

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
    """Return the same function with its loop on the devices: the host gets nothing between the first round and the last.

    MirroredStrategy cannot do this: its all_reduce leaves the replica, which a loop must not do.
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

    `arguments` have static shapes: a TPU compiles for one R, and again for the last call of a training if that is shorter.
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


def make_weights_check(state: step.State, strategy: tf.distribute.Strategy) -> Callable[[], list[str]]:
    """Return a function that names the variables, optimizers' included, that are not finite on some replica.

    The devices check the values; one number a variable is read back.
    """
    named = [(name, variable) for name, variable in named_variables(state) if "float" in str(variable.dtype)]

    def on_a_replica() -> tf.Tensor:
        sound = [tf.reduce_all(tf.math.is_finite(variable.value)) for _, variable in named]
        return 1 - tf.cast(tf.stack(sound), tf.int32)

    @tf.function  # type: ignore[untyped-decorator]
    def broken_replicas() -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(on_a_replica), axis=None)

    return lambda: [name for (name, _), replicas in zip(named, broken_replicas().numpy(), strict=True) if replicas]


def rounds_a_call(config: TrainConfig, source: Source) -> int:
    """Return the rounds of a host call: as configured, else those between two log lines, or fewer if their images are many."""
    return rounds_within(config, rounds_that_fit(source.bytes_per_round))


def rounds_within(config: TrainConfig, fitting: int) -> int:
    """Return the rounds of a host call where `fitting` is the largest number of rounds whose images fit."""
    if config.rounds_per_call or fitting >= config.log_every_rounds:
        return config.rounds_a_call
    between_lines, multiple = config.log_every_rounds, config.penalty_every_rounds
    possible = [rounds for rounds in range(multiple, between_lines, multiple) if between_lines % rounds == 0]
    return max((rounds for rounds in possible if rounds <= fitting), default=possible[0] if possible else between_lines)
