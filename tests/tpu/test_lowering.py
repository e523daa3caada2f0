"""The errors for what a TPU program must not contain, planted into the critic; the TPU compiler is not needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest
import tensorflow as tf

from components.tpu_check import lowering
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.errors import ProgramRefusedError
from components.train import step
from components.train.config import TrainConfig
from components.train.networks import make_critic

SMALL = {"generator_channels": 4, "critic_channels": 4, "latents": 4, "global_batch_size": 16, "n_critic": 2, "devices": "tpu"}
ROUNDS = {"rounds_per_call": 5, "log_every_rounds": 5, "checkpoint_every_rounds": 5, "sample_every_rounds": 5}


def small(topology: str = "v5e:2x4", images: int = 100, **train: Any) -> TpuCheckConfig:
    return TpuCheckConfig(topology=topology, images=images, train=TrainConfig(**(SMALL | ROUNDS | train)))


def plant(monkeypatch: pytest.MonkeyPatch, fault: Callable[[tf.Tensor], tf.Tensor]) -> None:
    """Put a layer that applies `fault` in front of the real critic."""

    def make(*arguments: Any) -> keras.Model:
        critic = make_critic(*arguments)
        images = keras.Input(critic.input_shape[1:])
        faulty = keras.layers.Lambda(fault, output_shape=critic.input_shape[1:], name="fault")(images)
        return keras.Model(images, critic(faulty), name="critic")

    monkeypatch.setattr(step, "make_critic", make)


def nearest(images: tf.Tensor) -> tf.Tensor:
    return tf.image.resize(images, [8, 8], method="nearest")


def on_the_host(images: tf.Tensor) -> tf.Tensor:
    return images + tf.ensure_shape(tf.numpy_function(lambda x: x, [images], tf.float32), images.shape)


def on_the_host_eagerly(images: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.py_function(lambda x: x, [images], tf.float32), images.shape)


def printing(images: tf.Tensor) -> tf.Tensor:
    tf.print("a batch")
    return images


def in_float64(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.cast(images, tf.float64) * 2.0, tf.float32)


def with_strings(images: tf.Tensor) -> tf.Tensor:
    lengths = tf.strings.length(tf.strings.as_string(tf.stop_gradient(images)))
    return images * tf.cast(lengths, tf.float32)


def of_unknown_length(images: tf.Tensor) -> tf.Tensor:
    return tf.boolean_mask(images, tf.reduce_sum(images, [1, 2, 3]) > 0.0)


FAULTS = [
    (nearest, r"ResizeNearestNeighborGrad \(.*\) has no derivative in TensorFlow, but the gradient penalty needs"),
    (on_the_host, r"\(tf\.numpy_function\) runs on the host; a TPU program cannot call it\. Write it with other TensorFlow"),
    (on_the_host_eagerly, r"\(tf\.py_function\) runs on the host; a TPU program cannot call it\."),
    (printing, r"\(tf\.print\) runs on the host; a TPU program cannot call it\."),
    (in_float64, r"and \d+ other operations compute in float64, which a TPU lacks\. Use float32"),
    (with_strings, r"XLA, which compiles TPU programs, has no lowering for AsString.*\. Use another operation"),
    (of_unknown_length, r"XLA cannot lower the program: .*dynamic dimension"),
]


@pytest.mark.parametrize(("fault", "sentence"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_refused_with_its_name(
    fault: Callable[[tf.Tensor], tf.Tensor], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, fault)
    with pytest.raises(ProgramRefusedError, match=sentence):
        lowering.lowered_call(small())


def test_a_dynamic_batch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = lowering.argument_specs(small())
    monkeypatch.setattr(lowering, "argument_specs", lambda _: (data, (tf.TensorSpec([5, 2, None], tf.int32),)))
    with pytest.raises(
        ProgramRefusedError, match=r"An argument has the dynamic shape \(5, 2, None\); a TPU program needs fixed shapes\."
    ):
        lowering.lowered_call(small())


@pytest.mark.parametrize("chips", [1, 8])
def test_the_training_round_is_lowered_with_a_collective_over_the_chips(chips: int) -> None:
    program = lowering.lowered_call(small({1: "v5e:1x1", 8: "v5e:2x4"}[chips]))
    text = program.text
    assert text.count("stablehlo.while") >= 2, "one loop of rounds, and in it one of critic steps"
    groups = {line.split("replica_groups = ")[1].split(" :")[0] for line in text.splitlines() if "replica_groups" in line}
    assert groups == ({f"dense<[{list(range(chips))}]>"} if chips > 1 else set())
    assert "f64" not in text
    assert program.arguments[:5] == ("first_round", "replica_id", "pixels", "labels", "sent/0")
    assert program.results[:3] == ("part_metrics", "whole_metrics", "generator/000/kernel")
    variables = set(program.arguments[5:])
    not_written = {name for name in variables if name.endswith("learning_rate")}
    assert (program.rounds, set(program.results[2:])) == (5, variables - not_written)
    assert len(not_written) == 2


def test_images_are_resident_rows_of_bytes_or_arguments_of_the_call() -> None:
    config = small()
    data, arguments = lowering.argument_specs(config)
    assert [tuple(spec.shape) for spec in (*data, *arguments)] == [(100, 64), (100,), (5, 2, 16)]
    data, arguments = lowering.argument_specs(small(data="stream"))
    assert data == ()
    assert [(tuple(spec.shape), spec.dtype) for spec in arguments] == [((5, 2, 16, 64), tf.uint8), ((5, 2, 16), tf.int32)]
    unknown, _ = lowering.argument_specs(small(images=0))
    assert unknown[0].shape[0] == lowering.ASSUMED_IMAGES
    assert lowering.argument_specs(small(images=2**30 // 64 + 1))[0] == (), "more than a GiB of pixels is streamed"
    assert lowering.argument_specs(small(images=2**30 // 64 + 1, data="resident"))[0]


def test_streamed_images_and_labels_are_lowered() -> None:
    text = lowering.lowered_call(small(data="stream", conditional=True, networks="residual")).text
    assert text.count("stablehlo.all_reduce") > 20
