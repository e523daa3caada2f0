"""Traces the training call with TensorFlow on a CPU and lowers it to StableHLO for the replicas of a slice.

    python -m components.tpu_check.lowering FOLDER

It traces the functions that train: rounds_on_device of components/train/devices/host_call.py and, in it, train_round.
Only the replica context is replaced: as under TPUStrategy, its all_reduce is a collective over N replicas and its replica
id is an argument of the program.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from components.common.errors import first_line
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.errors import ProgramRefusedError
from components.train import step
from components.train.data.on_device import Gathered, OnDevice, Sent
from components.train.data.source import CALL_BUDGET_BYTES, RESIDENT_LIMIT_BYTES, rounds_that_fit
from components.train.devices import host_call
from components.train.devices.host_code import HOST_OPERATIONS, graph_nodes
from components.train.networks import ImageShape
from components.train.saving.variables import named_variables

ASSUMED_IMAGES = 100_000
NO_GRADIENT = re.compile(r"No gradient defined for operation\s*'([^']*)'\s*\(op type: (\w+)\)")
ALIAS = re.compile(r"parameter_number = (\d+) : i64\}, output_index = array<i64: (\d+)>")  # of a variable, written in place
NO_KERNEL = re.compile(r"No registered '(\w+)' OpKernel")


class SliceReplicaContext(tf.distribute.ReplicaContext):  # type: ignore[misc]
    """The context of one of `replicas`, with a tensor as its id, as train_round gets it under TPUStrategy."""

    def __init__(self, strategy: tf.distribute.Strategy, replica_id: tf.Tensor, replicas: int) -> None:
        super().__init__(strategy, replica_id_in_sync_group=replica_id)
        self._replicas, self._collectives = replicas, 0

    @property
    def num_replicas_in_sync(self) -> int:
        """The number of replicas."""
        return self._replicas

    def all_reduce(self, _: Any, value: Any, options: Any = None) -> Any:  # noqa: ARG002
        """Return the sums of tensors over all replicas: one collective a tensor, or none if there is one replica."""
        return value if self._replicas == 1 else tf.nest.map_structure(self._sum, value)

    def _sum(self, tensor: tf.Tensor) -> tf.Tensor:
        self._collectives += 1
        return tf.raw_ops.CollectiveReduceV2(
            input=tensor,
            group_size=self._replicas,
            group_key=1,
            instance_key=self._collectives,
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
        )


class Program(NamedTuple):
    """The StableHLO of one host call of a training, for one of N replicas, and the names of its arguments and results.

    The arguments are `first_round`, `replica_id`, resident data (`pixels`, `labels`), what a call sends (`sent/0`, …) and all
    variables, named as in a checkpoint. The results are `part_metrics` [R, 4], `whole_metrics` [R, 2] and the variables that
    the program writes.
    """

    text: str
    rounds: int
    replicas: int
    arguments: tuple[str, ...]
    results: tuple[str, ...]


def lowered_call(config: TpuCheckConfig) -> Program:
    """Return the program of one host call of the training, for one replica of the slice.

    Raises ProgramRefusedError if a TPU could not run it.
    """
    train, shape = config.train, (config.image_size, config.image_size, config.channels)
    classes = config.classes if train.conditional else 0
    strategy = tf.distribute.get_strategy()
    state = step.make_state(ImageShape(config.image_size, config.channels, classes), train, strategy)
    data, arguments = argument_specs(config)

    def call(first_round: tf.Tensor, replica_id: tf.Tensor, *rest: tf.Tensor) -> Any:
        source: OnDevice = Gathered(rest[0], rest[1], shape) if data else Sent(shape)
        with SliceReplicaContext(strategy, replica_id, config.slice.replicas):
            return host_call.rounds_on_device(state, train, source, rest[len(data) :], first_round)

    scalar = tf.TensorSpec([], tf.int32)
    text, captured = stablehlo(call, (scalar, scalar, *data, *arguments))
    variables = {id(variable.value.handle): name for name, variable in named_variables(state)}
    names = ["first_round", "replica_id", *("pixels", "labels")[: len(data)]]
    names += [f"sent/{index}" for index in range(len(arguments))] + [variables[id(tensor)] for tensor in captured]
    written = sorted((int(result), int(argument)) for argument, result in ALIAS.findall(text))
    results = ["part_metrics", "whole_metrics", *(names[argument] for _, argument in written)]
    return Program(text, int(arguments[0].shape[0]), config.slice.replicas, tuple(names), tuple(results))


def argument_specs(config: TpuCheckConfig) -> tuple[tuple[tf.TensorSpec, ...], tuple[tf.TensorSpec, ...]]:
    """Return the specs of the resident data (none if it is streamed) and of the arguments of each host call."""
    train = config.train
    pixels = config.image_size**2 * config.channels
    images = config.images or max(train.global_batch_size, min(ASSUMED_IMAGES, RESIDENT_LIMIT_BYTES // pixels))
    batches = [train.n_critic, train.global_batch_size]
    resident = train.data == "resident" or (train.data == "auto" and images * pixels <= RESIDENT_LIMIT_BYTES)
    bytes_per_image = 4 if resident else pixels + 4
    rounds = host_call.rounds_within(
        train, rounds_that_fit(bytes_per_image * train.n_critic * train.global_batch_size, CALL_BUDGET_BYTES)
    )
    numbers = tf.TensorSpec([rounds, *batches], tf.int32)
    if resident:
        return (tf.TensorSpec([images, pixels], tf.uint8), tf.TensorSpec([images], tf.int32)), (numbers,)
    return (), (tf.TensorSpec([rounds, *batches, pixels], tf.uint8), numbers)


def stablehlo(function: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> tuple[str, list[tf.Tensor]]:
    """Return the StableHLO of `function` for arguments of `specs`, and the tensors that follow these as its arguments.

    Raises ProgramRefusedError for dynamic shapes, host operations, float64, and operations without a lowering or derivative.
    """
    if dynamic := [spec for spec in specs if not spec.shape.is_fully_defined()]:
        raise ProgramRefusedError(
            f"An argument has the dynamic shape {dynamic[0].shape}; a TPU program needs fixed shapes.",
            "Give every dimension a number; drop the last, smaller batch.",
        )
    compiled = tf.function(function, jit_compile=True, autograph=False)
    try:
        concrete = compiled.get_concrete_function(*specs)
        nodes = graph_nodes(concrete.graph)
    except LookupError as error:
        raise _no_derivative(error) from None
    if host := [node for node in nodes if node.op in HOST_OPERATIONS]:
        raise ProgramRefusedError(
            f"{host[0].name} ({HOST_OPERATIONS[host[0].op]}) runs on the host; a TPU program cannot call it.",
            "Write it with other TensorFlow operations, or move it out of the training step.",
        )
    if double := [node for node in nodes if _computes_in_float64(node)]:
        raise ProgramRefusedError(
            f"{double[0].name} ({double[0].op}) and {len(double) - 1} other operations compute in float64, which a TPU lacks.",
            "Use float32: give constants a dtype, and convert NumPy's float64 arrays.",
        )
    try:
        return str(compiled.experimental_get_compiler_ir(*specs)(stage="stablehlo")), concrete.captured_inputs
    except (tf.errors.OpError, ValueError) as error:
        raise _no_lowering(str(error)) from None


def _computes_in_float64(node: Any) -> bool:
    if node.op == "Const":
        return False
    attributes = [value for name, value in node.attr.items() if name != "SrcT"]  # a cast to float32 is harmless
    return any(tf.float64.as_datatype_enum in (value.type, *value.list.type) for value in attributes)


def _no_derivative(error: LookupError) -> ProgramRefusedError:
    match = NO_GRADIENT.search(str(error))
    name, kind = (match[1], match[2]) if match else ("an operation", first_line(error))
    return ProgramRefusedError(
        f"{kind} ({name}) has no derivative in TensorFlow, but the gradient penalty needs the critic's second derivative.",
        "Use another layer: for nearest-neighbour up-sampling keras.layers.UpSampling2D or UpConv, not tf.image.resize.",
    )


def _no_lowering(message: str) -> ProgramRefusedError:
    if kinds := sorted(set(NO_KERNEL.findall(message))):
        return ProgramRefusedError(
            f"XLA, which compiles TPU programs, has no lowering for {', '.join(kinds)}.",
            "Use another operation, or move it out of the training step, into the input.",
        )
    return ProgramRefusedError(f"XLA cannot lower the program: {first_line(message)}.")


def write_program(program: Program, folder: Path) -> None:
    """Write program.mlir and program.json, which the other stages read."""
    (folder / "program.mlir").write_text(program.text)
    (folder / "program.json").write_text(json.dumps(program._replace(text="")._asdict()))


def _work(config: TpuCheckConfig, folder: Path) -> None:
    write_program(lowered_call(config), folder)


if __name__ == "__main__":
    from components.tpu_check.subprocesses import main

    raise SystemExit(main(_work))
