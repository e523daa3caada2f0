"""Finds operations that a TPU would have to hand to its host: Python functions, prints, files and summaries."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from components.common.errors import DeviceError

Call = Callable[[tuple[tf.Tensor, ...], tf.Tensor], tf.Tensor]  # a host call: see host_call.make_call

# The type of an operation in a graph, and the TensorFlow function that makes it.
HOST_OPERATIONS = {
    "PyFunc": "tf.numpy_function",
    "PyFuncStateless": "tf.numpy_function",
    "EagerPyFunc": "tf.py_function",
    "Print": "tf.print",
    "PrintV2": "tf.print",
    "StringFormat": "tf.print",
    "ReadFile": "tf.io.read_file",
    "WriteFile": "tf.io.write_file",
    "SaveV2": "tf.train.Checkpoint",
    "RestoreV2": "tf.train.Checkpoint",
    "IteratorGetNext": "tf.data.Dataset",
    "GeneratorDataset": "tf.data.Dataset.from_generator",
    "WriteSummary": "tf.summary.write",
    **{f"Write{kind}Summary": f"tf.summary.{kind.lower()}" for kind in ("Scalar", "Image", "Histogram", "Audio", "Graph")},
}
SHOWN = 3


def graph_nodes(graph: tf.Graph) -> list[tf.compat.v1.NodeDef]:
    """Return the nodes of a graph and of the functions that it calls, such as the bodies of loops."""
    definition = graph.as_graph_def()
    return [*definition.node, *(node for function in definition.library.function for node in function.node_def)]


def host_operations(graph: tf.Graph) -> list[str]:
    """Return `type name` of each host operation of a traced function and of the functions that it calls."""
    return sorted({f"{node.op} {node.name}" for node in graph_nodes(graph) if node.op in HOST_OPERATIONS})


def refuse_host_operations(graph: tf.Graph) -> None:
    """Raise DeviceError, with the operations' names, if a traced step holds host operations."""
    found = host_operations(graph)
    if found:
        count = "an operation" if len(found) == 1 else f"{len(found)} operations"
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise DeviceError(
            f"The training step has {count} that a TPU cannot run: {', '.join(found[:SHOWN])}{more}.",
            "Take Python functions, prints, files and summaries out of the step; print what it returns after a call.",
        )


def without_host_code(call: Call) -> Call:
    """Return `call` with a check of its traced graph before it first runs, which may raise DeviceError."""
    checked = False

    def checked_call(taken: tuple[tf.Tensor, ...], first_round: tf.Tensor) -> tf.Tensor:
        nonlocal checked
        if not checked:
            refuse_host_operations(call.get_concrete_function(taken, first_round).graph)  # type: ignore[attr-defined]
            checked = True
        return call(taken, first_round)

    return checked_call
