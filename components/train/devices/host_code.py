"""Python and host operations that a step on a TPU must not contain: each would stop the TPU to ask its host."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import tensorflow as tf

from components.common.errors import DeviceError

Call = Callable[[tuple[tf.Tensor, ...], tf.Tensor], tf.Tensor]  # a host call: see host_call.make_call
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
    """Return `type name` of each host operation of a traced function, those of the functions that it calls included."""
    return sorted({f"{node.op} {node.name}" for node in _nodes(graph.as_graph_def()) if node.op in HOST_OPERATIONS})


def refuse_host_operations(graph: tf.Graph) -> None:
    """Refuse a traced step that holds host operations. Raises DeviceError that names them."""
    found = host_operations(graph)
    if found:
        count = "an operation" if len(found) == 1 else f"{len(found)} operations"
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise DeviceError(
            f"The training step has {count} that a TPU cannot run: {', '.join(found[:SHOWN])}{more}.",
            "Take Python functions, prints, files and summaries out of the step; what it returns may be printed after a call.",
        )


def without_host_code(call: Call) -> Call:
    """Return `call` that looks at its own traced graph before it first runs. It raises DeviceError then."""
    looked = False

    def checked(taken: tuple[tf.Tensor, ...], first_round: tf.Tensor) -> tf.Tensor:
        nonlocal looked
        if not looked:
            refuse_host_operations(call.get_concrete_function(taken, first_round).graph)  # type: ignore[attr-defined]
            looked = True
        return call(taken, first_round)

    return checked


def _nodes(definition: tf.compat.v1.GraphDef) -> Iterator[tf.compat.v1.NodeDef]:
    yield from definition.node
    for function in definition.library.function:
        yield from function.node_def
