"""The program of a training call, as StableHLO: traced and lowered with TensorFlow on a CPU, for N chips.

    python -m components.tpu_check.lowering FOLDER

What is traced is components.train.host_call.rounds_on_device and under it train_round, the functions that train. Only the
replica context is ours: its all_reduce is a collective over N replicas and its replica id an argument of the program, as
under TPUStrategy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from components.common.errors import first_line
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.errors import ProgramRefusedError
from components.train import step
from components.train.data.on_device import Gathered, OnDevice, Sent
from components.train.data.source import CALL_BUDGET_BYTES, RESIDENT_LIMIT_BYTES, rounds_that_fit
from components.train.devices import host_call
from components.train.networks import ImageShape

UNKNOWN_IMAGES = 100_000
HOST_OPERATIONS = {"PyFunc": "tf.numpy_function", "EagerPyFunc": "tf.py_function", "PyFuncStateless": "tf.numpy_function"}
SECOND_DERIVATIVE = re.compile(r"No gradient defined for operation\s*'([^']*)'\s*\(op type: (\w+)\)")
NO_KERNEL = re.compile(r"No registered '(\w+)' OpKernel")


class OneOfMany(tf.distribute.ReplicaContext):  # type: ignore[misc]
    """The context of one replica of `replicas`, whose id is a tensor: what train_round sees under TPUStrategy."""

    def __init__(self, strategy: tf.distribute.Strategy, replica_id: tf.Tensor, replicas: int) -> None:
        super().__init__(strategy, replica_id_in_sync_group=replica_id)
        self._replicas, self._reduced = replicas, 0

    @property
    def num_replicas_in_sync(self) -> int:
        """How many replicas there are."""
        return self._replicas

    def all_reduce(self, _: Any, value: Any, options: Any = None) -> Any:  # noqa: ARG002
        """Return the sums of tensors over all replicas; one collective each, as under TPUStrategy, and none for one replica."""
        return value if self._replicas == 1 else tf.nest.map_structure(self._sum, value)

    def _sum(self, tensor: tf.Tensor) -> tf.Tensor:
        self._reduced += 1
        return tf.raw_ops.CollectiveReduceV2(
            input=tensor,
            group_size=self._replicas,
            group_key=1,
            instance_key=self._reduced,
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
        )


def lowered_call(config: TpuCheckConfig) -> str:
    """Return the StableHLO of one host call of the training, for one replica of the slice.

    Raises ProgramRefusedError when a TPU could not run it.
    """
    train, shape = config.train, (config.image_size, config.image_size, config.channels)
    classes = config.classes if train.conditional else 0
    strategy = tf.distribute.get_strategy()
    state = step.make_state(ImageShape(config.image_size, config.channels, classes), train, strategy)

    data, arguments = argument_specs(config)

    def call(first_round: tf.Tensor, replica_id: tf.Tensor, *rest: tf.Tensor) -> Any:
        source: OnDevice = Gathered(rest[0], rest[1], shape) if data else Sent(shape)
        with OneOfMany(strategy, replica_id, config.slice.replicas):
            return host_call.rounds_on_device(state, train, source, rest[len(data) :], first_round)

    scalar = tf.TensorSpec([], tf.int32)
    return stablehlo(call, (scalar, scalar, *data, *arguments))


def argument_specs(config: TpuCheckConfig) -> tuple[tuple[tf.TensorSpec, ...], tuple[tf.TensorSpec, ...]]:
    """Return the specs of the data that stays on a chip (none where it is streamed) and of what a host call takes along."""
    train = config.train
    pixels = config.image_size**2 * config.channels
    images = config.images or max(train.global_batch_size, min(UNKNOWN_IMAGES, RESIDENT_LIMIT_BYTES // pixels))
    batches = [train.n_critic, train.global_batch_size]
    if train.data == "resident" or (train.data == "auto" and images * pixels <= RESIDENT_LIMIT_BYTES):
        data = (tf.TensorSpec([images, pixels], tf.uint8), tf.TensorSpec([images], tf.int32))
        return data, (tf.TensorSpec([_rounds(config, 4), *batches], tf.int32),)
    rounds = _rounds(config, pixels + 4)
    return (), (tf.TensorSpec([rounds, *batches, pixels], tf.uint8), tf.TensorSpec([rounds, *batches], tf.int32))


def _rounds(config: TpuCheckConfig, bytes_per_image: int) -> int:
    train = config.train
    fitting = rounds_that_fit(bytes_per_image * train.n_critic * train.global_batch_size, CALL_BUDGET_BYTES)
    return host_call.rounds_within(train, fitting)


def stablehlo(function: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> str:
    """Return the StableHLO of `function` on arguments of `specs`.

    Raises ProgramRefusedError for what a TPU cannot run: dynamic shapes, Python in the program, operations without a TPU
    lowering, float64.
    """
    if dynamic := [spec for spec in specs if not spec.shape.is_fully_defined()]:
        raise ProgramRefusedError(
            f"An argument has the dynamic shape {dynamic[0].shape}: a TPU compiles for one shape.",
            "Give every dimension a number; drop the last, smaller batch.",
        )
    compiled = tf.function(function, jit_compile=True, autograph=False)
    try:
        traced = compiled.get_concrete_function(*specs)
    except LookupError as error:
        raise _no_derivative(error) from None
    operations = all_operations(traced.graph)
    if host := [operation for operation in operations if operation.type in HOST_OPERATIONS]:
        raise ProgramRefusedError(
            f"{host[0].name} ({HOST_OPERATIONS[host[0].type]}) runs Python on the host, which a TPU program cannot.",
            "Write it with TensorFlow operations, or do it before the call, in the input.",
        )
    if double := [operation for operation in operations if _is_double(operation)]:
        raise ProgramRefusedError(
            f"{double[0].name} ({double[0].type}) computes in float64, the first of {len(double)}; a TPU has none.",
            "Use float32: name the dtype of constants, and keep NumPy's float64 arrays out.",
        )
    try:
        return str(compiled.experimental_get_compiler_ir(*specs)(stage="stablehlo"))
    except (tf.errors.OpError, ValueError) as error:
        raise _no_lowering(str(error)) from None


def all_operations(graph: Any) -> list[tf.Operation]:
    """Return the operations of a graph and of the functions that it calls: bodies of loops, branches."""
    found = list(graph.get_operations())
    for function in graph._functions.values():
        found += list(getattr(function, "graph", graph).get_operations()) if hasattr(function, "graph") else []
    return found


def _is_double(operation: tf.Operation) -> bool:
    return operation.type != "Const" and any(output.dtype == tf.float64 for output in operation.outputs)


def _no_derivative(error: LookupError) -> ProgramRefusedError:
    match = SECOND_DERIVATIVE.search(str(error))
    name, kind = (match[1], match[2]) if match else ("an operation", first_line(error))
    return ProgramRefusedError(
        f"{kind} ({name}) has no derivative in TensorFlow, and the gradient penalty needs a second one of the critic.",
        "Use a layer that has one: for nearest-neighbour up-sampling keras.layers.UpSampling2D or UpConv, not tf.image.resize.",
    )


def _no_lowering(message: str) -> ProgramRefusedError:
    kinds = sorted(set(NO_KERNEL.findall(message)))
    if kinds:
        return ProgramRefusedError(
            f"{', '.join(kinds)} has no lowering to XLA, which a TPU program is made of.",
            "Use an operation that has one, or do it before the call, in the input.",
        )
    return ProgramRefusedError(f"XLA cannot lower the program: {message.strip().splitlines()[0][:300]}.")


def _work(config: TpuCheckConfig, folder: Path) -> None:
    (folder / "program.mlir").write_text(lowered_call(config))
    (folder / "rounds").write_text(str(argument_specs(config)[1][0].shape[0]))


if __name__ == "__main__":
    from components.tpu_check.child import main

    raise SystemExit(main(_work))
