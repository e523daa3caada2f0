"""A host call runs many rounds on the devices and reads their metrics back once.

On a TPU the loop over the rounds is part of the program on the chips. On other devices it is a loop in the graph. Loops and
conditions are written with TensorFlow's functions: to look for Python's with AutoGraph takes a third of the first call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from components.train import step
from components.train.config import TrainConfig
from components.train.data.batches import RoundBatches
from components.train.data.on_device import OnDevice, load_on_device
from components.train.data.source import Source
from components.train.devices.host_code import Call, without_host_code
from components.train.saving.variables import named_variables


def make_call(state: step.State, config: TrainConfig, strategy: tf.distribute.Strategy, source: Source) -> Call:
    """Return the function that runs a host call: it maps `source.take` of R rounds, and the first round, to METRICS [R, 6].

    On a TPU its first call raises DeviceError if the graph contains host operations.
    """
    if config.devices.startswith("tpu"):
        return without_host_code(make_device_call(state, config, strategy, load_on_device(source, strategy)))

    def one(batch: RoundBatches, round_index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return step.train_round(state, config, batch.of(step.own_rows(config)), round_index)

    @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def call(taken: tuple[tf.Tensor, ...], first_round: tf.Tensor) -> tf.Tensor:
        rounds = tf.shape(taken[0])[0]

        def write(offset: tf.Tensor, metrics: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            parts, whole = strategy.run(one, args=(source.batch(taken, offset), first_round + offset))
            return offset + 1, metrics.write(offset, _reduced(strategy, parts, whole))

        metrics = tf.TensorArray(tf.float32, size=rounds, element_shape=[len(step.METRICS)])
        start = (tf.constant(0), metrics)
        return tf.while_loop(lambda offset, _: offset < rounds, write, start, maximum_iterations=rounds)[1].stack()

    return call  # type: ignore[no-any-return]


def make_device_call(state: step.State, config: TrainConfig, strategy: tf.distribute.Strategy, source: OnDevice) -> Call:
    """Return the same function with the loop on the devices, so that nothing returns to the host between two rounds.

    MirroredStrategy cannot do this: its all_reduce needs merge_call, which is not allowed in a loop.
    """

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def call(taken: tuple[tf.Tensor, ...], first_round: tf.Tensor) -> tf.Tensor:
        arguments = source.arguments(taken)
        run = lambda *args: rounds_on_device(state, config, source, *args)  # noqa: E731
        return _reduced(strategy, *strategy.run(run, args=(arguments, first_round)))

    return call  # type: ignore[no-any-return]


def _reduced(strategy: tf.distribute.Strategy, parts: Any, whole: Any) -> tf.Tensor:
    """Return METRICS from the replicas' PART_METRICS, which are summed, and WHOLE_METRICS, which are equal."""
    return tf.concat([strategy.reduce("SUM", parts, axis=None), strategy.reduce("MEAN", whole, axis=None)], axis=-1)


def rounds_on_device(
    state: step.State, config: TrainConfig, source: OnDevice, arguments: tuple[tf.Tensor, ...], first_round: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Run the R rounds of a host call in replica context; return this replica's PART_METRICS [R, 4] and WHOLE_METRICS [R, 2].

    `arguments` have static shapes: a TPU compiles for one R, and once more if the last call of a training is shorter.
    """
    rounds = int(arguments[0].shape[0])

    def one(offset: tf.Tensor, parts: tf.TensorArray, whole: tf.TensorArray) -> tuple[Any, ...]:
        round_index = first_round + offset
        here = step.train_round(state, config, source.batch(arguments, offset, step.own_rows(config)), round_index)
        return offset + 1, parts.write(offset, here[0]), whole.write(offset, here[1])

    rows = [tf.TensorArray(tf.float32, rounds, element_shape=[len(names)]) for names in (step.PART_METRICS, step.WHOLE_METRICS)]
    start = (tf.constant(0), *rows)
    _, parts, whole = tf.while_loop(lambda offset, *_: offset < rounds, one, start, maximum_iterations=rounds)
    return parts.stack(), whole.stack()


def make_weights_check(state: step.State, strategy: tf.distribute.Strategy) -> Callable[[], list[str]]:
    """Return a function that lists the variables, including those of the optimizers, that are not finite on some replica.

    The devices check the values; one number per variable is read back.
    """
    named = [(name, variable) for name, variable in named_variables(state) if "float" in str(variable.dtype)]

    def on_a_replica() -> tf.Tensor:
        finite = [tf.reduce_all(tf.math.is_finite(variable.value)) for _, variable in named]
        return 1 - tf.cast(tf.stack(finite), tf.int32)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def broken_replicas() -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(on_a_replica), axis=None)

    return lambda: [name for (name, _), replicas in zip(named, broken_replicas().numpy(), strict=True) if replicas]


def rounds_within(config: TrainConfig, fitting: int) -> int:
    """Return the number of rounds in a host call if the images of at most `fitting` rounds fit into memory.

    It is rounds_per_call if that is set, else log_every_rounds or a divisor of it.
    """
    if config.rounds_per_call or fitting >= config.log_every_rounds:
        return config.rounds_a_call
    between_lines, multiple = config.log_every_rounds, config.penalty_every_rounds
    possible = [rounds for rounds in range(multiple, between_lines, multiple) if between_lines % rounds == 0]
    return max((rounds for rounds in possible if rounds <= fitting), default=possible[0] if possible else between_lines)
