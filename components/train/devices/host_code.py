"""Finds Python code and host operations in a training step. A TPU cannot run them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import tensorflow as tf

from components.common.errors import DeviceError

Call = Callable[[tuple[tf.Tensor, ...], tf.Tensor], tf.Tensor]  # what host_call.make_call returns
PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
PRINTING = frozenset({"Print", "PrintV2", "StringFormat"})
FILES = frozenset({"ReadFile", "WriteFile", "SaveV2", "RestoreV2", "IteratorGetNext", "GeneratorDataset"})
SUMMARIES = frozenset(
    {
        "WriteSummary",
        "WriteScalarSummary",
        "WriteImageSummary",
        "WriteHistogramSummary",
        "WriteAudioSummary",
        "WriteGraphSummary",
    }
)
HOST_OPERATIONS = PYTHON | PRINTING | FILES | SUMMARIES
SHOWN = 3


def host_operations(graph: tf.Graph) -> list[str]:
    """Return "type name" of each host operation in a traced function and in the functions that it calls."""
    definition = graph.as_graph_def()
    functions = (function.node_def for function in definition.library.function)
    nodes = itertools.chain(definition.node, *functions)
    return sorted({f"{node.op} {node.name}" for node in nodes if node.op in HOST_OPERATIONS})


def without_host_code(call: Call) -> Call:
    """Return `call` with a check: its first run raises DeviceError if the traced graph contains host operations."""
    checked = False

    def checking(taken: tuple[tf.Tensor, ...], first_round: tf.Tensor) -> tf.Tensor:
        nonlocal checked
        if not checked:
            _check(host_operations(call.get_concrete_function(taken, first_round).graph))  # type: ignore[attr-defined]
            checked = True
        return call(taken, first_round)

    return checking


def _check(operations: list[str]) -> None:
    if operations:
        count = "an operation" if len(operations) == 1 else f"{len(operations)} operations"
        more = f" and {len(operations) - SHOWN} more" if len(operations) > SHOWN else ""
        raise DeviceError(
            f"The training step has {count} that a TPU cannot run: {', '.join(operations[:SHOWN])}{more}.",
            "Remove Python functions, prints, file access and summaries from the step; use them on the result of a host call.",
        )
