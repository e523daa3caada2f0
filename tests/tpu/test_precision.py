"""With train.precision = "bfloat16", the layers of the lowered program compute in bfloat16 and everything else in float32.

The rules of docs/scaling.md, checked on each operation of the StableHLO that a TPU gets, and mistakes that they must notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import tensorflow as tf

from components.tpu_check import lowering
from components.train import losses, networks, step
from tests.tpu.test_lowering import small

pytestmark = pytest.mark.usefixtures("tpu_compiler")  # its packages have the parser

BATCH = 2  # of a replica; no layer has 2 or 4 channels, so that [2], [4], [2, 1] and [4, 1] are one number an image
SETTINGS = {"precision": "bfloat16", "generator_channels": 5, "critic_channels": 3, "latents": 7, "n_critic": 1}
FAMILIES = {"plain": {}, "residual": {"networks": "residual"}, "conditional": {"conditional": True}}
FEATURES = {"plain": 2 * 2 * 6, "residual": 4 * 4 * 6, "conditional": 2 * 2 * 6}  # that the score layer gets of an image
# The score layer's products, for the mixed, for the real and fake, and for the generator's images: forward, backward, for the
# kernel, and for the second derivative. The projection has as many, and as many more with the label vectors.
PRODUCTS = {"plain": 7, "residual": 7, "conditional": 20}

LAYERS = {"add", "multiply", "compare", "select"}  # biases, shortcuts, leaky ReLU, gain and offset of a label
PRODUCTS_OF_LAYERS = {"convolution", "dot", "dot_general"}
MOVES = {"convert", "constant", "broadcast_in_dim", "reshape", "reverse", "transpose", "return"}


class Array(NamedTuple):
    """The type of a value: dimensions and element type."""

    shape: tuple[int, ...]
    kind: str


class Operation(NamedTuple):
    """One operation of the program without its dialect's name."""

    name: str
    operands: list[Array]
    results: list[Array]

    @property
    def in_bfloat16(self) -> bool:
        return any(array.kind == "bf16" for array in (*self.operands, *self.results))


def operations(text: str) -> list[Operation]:
    """Return all operations of a StableHLO module, those of its functions, loops and reductions included."""
    from jax.interpreters import mlir
    from jaxlib.mlir import ir

    def array(value: Any) -> Array:
        return Array(tuple(value.type.shape), str(value.type.element_type))

    def inside(operation: Any) -> Iterator[Operation]:
        for block in (block for region in operation.regions for block in region):
            for each in (each.operation for each in block.operations):
                yield Operation(each.name.split(".")[-1], [array(v) for v in each.operands], [array(v) for v in each.results])
                yield from inside(each)

    with mlir.make_ir_context():
        return list(inside(ir.Module.parse(text).operation))


def check_precision(text: str, family: str) -> None:
    """Raise AssertionError, with what is wrong, unless the program follows the rules of docs/scaling.md."""
    program = operations(text)
    named = {name: [each for each in program if each.name == name] for name in {each.name for each in program}}
    arrays = [array for each in named["convolution"] for array in (*each.operands, *each.results)]
    assert arrays, "there are convolutions"
    assert {array.kind for array in arrays} == {"bf16"}, "a convolution is not in bfloat16"

    features = FEATURES[family]
    last = [
        each
        for each in (*named["dot"], *named["dot_general"])
        if any(features in array.shape for array in (*each.operands, *each.results))
    ]
    assert len(last) >= PRODUCTS[family], f"{len(last)} products with features"
    assert not [each for each in last if each.in_bfloat16], "the score layer or the projection is in bfloat16"

    sums = named["all_reduce"]
    assert len(sums) > 20, "there is an all-reduce for each gradient"
    assert {array.kind for each in sums for array in each.operands} == {"f32"}, "a sum over replicas is not in float32"

    carried = [array for each in (*named["while"], *named["func"], *named["call"]) for array in (*each.operands, *each.results)]
    assert not [array for array in carried if array.kind == "bf16"], "a loop carries bfloat16"
    weights = {array.shape for each in named["while"] for array in each.results if array.kind == "f32"}
    assert {each.operands[0].shape for each in sums if each.operands[0].shape} < weights, "all weights are carried as float32"

    half = [each for each in program if each.in_bfloat16]
    numbers = [each for each in half if any(_one_per_image(array) for array in each.results)]
    assert not numbers, f"a score, slope or loss is in bfloat16: {numbers[0]}"
    others = {each.name for each in half} - LAYERS - PRODUCTS_OF_LAYERS - MOVES
    assert not others, f"sums, roots or other operations are in bfloat16: {sorted(others)}"
    changed = [each for each in half if each.name in LAYERS and each.results[0].shape in weights]
    assert not changed, f"an update is in bfloat16: {changed[0]}"


def _one_per_image(array: Array) -> bool:
    return array.kind == "bf16" and array.shape in [(BATCH,), (2 * BATCH,), (BATCH, 1), (2 * BATCH, 1)]


@pytest.mark.parametrize(
    "family", ["conditional", *(pytest.param(name, marks=pytest.mark.heavy) for name in ("plain", "residual"))]
)
def test_layers_are_in_bfloat16_and_all_else_in_float32(family: str) -> None:
    check_precision(lowering.lowered_call(small(**SETTINGS, **FAMILIES[family])).text, family)


def score_layer(patch: pytest.MonkeyPatch) -> None:
    dense = networks._Maker.dense
    patch.setattr(networks._Maker, "dense", lambda self, units, name, **_: dense(self, units, name))


def label_vectors(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(networks, "LabelRows", lambda *a, **settings: rows(*a, **settings | {"dtype": "mixed_bfloat16"}))


def penalty(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(losses, "penalty", lambda slopes: single(tf.square(half(slopes) - 1.0)))


def loss(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(losses, "generator_loss", lambda scores: single(tf.reduce_sum(-half(scores))))


def norm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        tf.linalg, "global_norm", lambda parts: single(tf.sqrt(half(tf.add_n([tf.nn.l2_loss(part) for part in parts]))))
    )


def moving_average(patch: pytest.MonkeyPatch) -> None:
    def move(average: tf.Variable, value: tf.Tensor, decay: tf.Tensor) -> tf.Operation:
        return average.assign(single(half(decay) * half(average) + half(1.0 - decay) * half(value)))

    patch.setattr(step, "_move_towards", move)


def half(value: Any) -> tf.Tensor:
    return tf.cast(value, tf.bfloat16)


def single(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(value, tf.float32)


rows = networks.LabelRows
LAST, NUMBER = "the score layer or the projection is in bfloat16", "a score, slope or loss is in bfloat16"
MISTAKES = [
    pytest.param(score_layer, "plain", LAST, id="score_layer"),
    pytest.param(label_vectors, "conditional", LAST, id="label_vectors", marks=pytest.mark.heavy),
    pytest.param(penalty, "plain", NUMBER, id="penalty", marks=pytest.mark.heavy),
    pytest.param(loss, "plain", NUMBER, id="loss", marks=pytest.mark.heavy),
    pytest.param(norm, "plain", "sums, roots or other operations are in bfloat16: ", id="norm", marks=pytest.mark.heavy),
    pytest.param(moving_average, "plain", "an update is in bfloat16", id="moving_average", marks=pytest.mark.heavy),
]


@pytest.mark.parametrize(("mistake", "family", "message"), MISTAKES)
def test_a_planted_mistake_is_noticed(
    mistake: Callable[[pytest.MonkeyPatch], None], family: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)
    text = lowering.lowered_call(small(**SETTINGS, **FAMILIES[family])).text
    with pytest.raises(AssertionError, match=message):
        check_precision(text, family)
