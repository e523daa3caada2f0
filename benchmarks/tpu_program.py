"""The TPU program of our training call compared with that of a plain float32 transcription; prints a JSON line.

Plain: Gulrajani et al. 2017, Algorithm 1 transcribed directly with Keras' own layers. The critic is called three times (real,
fake, mixed), the fakes are made inside the tape, every layer is float32, and gradients are summed one by one. Networks and
batch are the same. Both are a loop of rounds in one program, compiled by the same compiler. Bytes are XLA's count for one chip,
with loop bodies multiplied by their trip counts.

    python benchmarks/tpu_program.py [--config configs/celeba64.toml] [--topology v5e:2x4] [--batch 1024]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

from benchmarks.train_throughput import with_keras_layers
from components.tpu_check import compiler, lowering
from components.tpu_check.config import TpuCheckConfig
from components.train import step
from components.train.config import TrainConfig
from components.train.networks import ImageShape, make_critic, make_generator
from pipeline.config import load_config

ROUNDS = 10


# Compiles the program on its standard input. Without the check of `tpu-check`, which the transcription's program does not pass.
COMPILE = """
import json, sys
from components.tpu_check import compiler
from components.tpu_check.config import TpuCheckConfig
compiled, text = compiler.compile_program(TpuCheckConfig.model_validate_json(sys.argv[1]), sys.stdin.read())
print(json.dumps(compiler.program_figures(compiled, text, int(sys.argv[2]))))
"""


def compiled(config: TpuCheckConfig, text: str) -> dict[str, float]:
    """Return the compiler's figures of a program. TensorFlow and the compiler cannot share a process."""
    command = [sys.executable, "-c", COMPILE, config.model_dump_json(), str(ROUNDS)]
    environment = os.environ | compiler.ENVIRONMENT
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def plain(config: TpuCheckConfig) -> str:
    """Return the StableHLO of the transcription, for one replica of the slice."""
    train, chips = config.train, config.slice.replicas
    own = train.global_batch_size // chips
    shape = ImageShape(config.image_size, config.channels)
    latents = tf.random.stateless_normal([2, train.latents], [0, 0])
    generator = with_keras_layers(make_generator(shape, train), latents)
    critic = with_keras_layers(make_critic(shape, train), generator(latents))
    adams = [keras.optimizers.Adam(train.critic_learning_rate, train.beta_1, train.beta_2) for _ in range(2)]
    for adam, network in zip(adams, (critic, generator), strict=True):
        adam.build(network.trainable_variables)

    def update(adam: Any, network: keras.Model, gradients: list[tf.Tensor]) -> None:
        summed = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        adam.apply([gradient / chips for gradient in summed], network.trainable_variables)

    def critic_step(real: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            fake = generator(tf.random.stateless_normal([own, train.latents], seed), training=True)
            alpha = tf.random.stateless_uniform([own, 1, 1, 1], seed + 1)
            mixed = alpha * real + (1 - alpha) * fake
            with tf.GradientTape() as inner:
                inner.watch(mixed)
                mixed_scores = critic(mixed, training=True)
            slopes = tf.sqrt(tf.reduce_sum(inner.gradient(mixed_scores, mixed) ** 2, axis=[1, 2, 3]) + 1e-12)
            penalty = tf.reduce_mean((slopes - 1) ** 2)
            gap = tf.reduce_mean(critic(real, training=True)) - tf.reduce_mean(critic(fake, training=True))
            loss = -gap + train.penalty_weight * penalty
        update(adams[0], critic, tape.gradient(loss, critic.trainable_variables))
        return loss

    def generator_step(seed: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            latents = tf.random.stateless_normal([own, train.latents], seed)
            loss = -tf.reduce_mean(critic(generator(latents, training=True), training=True))
        update(adams[1], generator, tape.gradient(loss, generator.trainable_variables))
        return loss

    def call(pixels: tf.Tensor, numbers: tf.Tensor, replica_id: tf.Tensor) -> tf.Tensor:
        def one(index: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            seed = tf.stack([index, replica_id])

            def one_critic_step(turn: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                images = tf.reshape(tf.gather(pixels, numbers[index, turn]), [own, *critic.input_shape[1:]])
                return turn + 1, critic_step(step.to_float(images), seed + turn)

            tf.while_loop(lambda turn, _: turn < train.n_critic, one_critic_step, (0, 0.0), maximum_iterations=train.n_critic)
            return index + 1, generator_step(seed - 1)

        with lowering.SliceReplicaContext(tf.distribute.get_strategy(), replica_id, chips):
            return tf.while_loop(lambda index, _: index < ROUNDS, one, (0, 0.0), maximum_iterations=ROUNDS)

    pixels = tf.TensorSpec([config.images, config.image_size**2 * config.channels], tf.uint8)
    return lowering.stablehlo(
        call, [pixels, tf.TensorSpec([ROUNDS, train.n_critic, own], tf.int32), tf.TensorSpec([], tf.int32)]
    )[0]


def row(config: TpuCheckConfig, figures: dict[str, float]) -> dict[str, float]:
    """Return the figures to compare, for one round."""
    images = config.train.n_critic * config.train.global_batch_size / config.slice.replicas
    return {
        "gigabytes_a_round": round(figures["bytes_a_round"] / 1e9, 3),
        "megabytes_an_image": round(figures["bytes_a_round"] / images / 1e6, 3),
        "hbm_gigabytes_a_round": round(figures["hbm_bytes_a_round"] / 1e9, 3),
        "teraflop_a_round": round(figures["flops_a_round"] / 1e12, 4),
        "all_reduces_a_round": figures["all_reduces_a_round"],
        "convolutions": figures["convolutions"],
        "bfloat16_convolutions": figures["bfloat16_convolutions"],
        "peak_hbm_megabytes": round(figures["peak_hbm_bytes"] / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path(__file__).parents[1] / "configs" / "celeba64.toml")
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--batch", type=int, default=0, help="global batch size; 0: that of the config")
    arguments = parser.parse_args()
    section = load_config(arguments.config, ["train.devices=tpu"]).for_tpu_check(arguments.topology)
    changes = {"rounds_per_call": ROUNDS, "data": "resident"}
    if arguments.batch:
        changes["global_batch_size"] = arguments.batch
    train = TrainConfig.model_validate(section.train.model_dump() | changes)
    config = section.model_copy(update={"train": train, "images": 100_000})
    # Plain first: our training then sets TensorFlow's precision of float32 products for the whole process.
    texts = {"plain": plain(config), "ours": lowering.lowered_call(config).text}

    def figures_of(name: str) -> tuple[str, dict[str, float]]:
        found = row(config, compiled(config, texts[name]))
        print(f"{name}: {found}", file=sys.stderr, flush=True)
        return name, found

    with ThreadPoolExecutor(2) as both:  # the compiler uses little more than one core
        rows = dict(both.map(figures_of, texts))
    print(
        json.dumps(
            {
                "benchmark": "tpu_program",
                "config": arguments.config.name,
                "topology": arguments.topology,
                "batch": train.global_batch_size,
                "precision": train.precision,
                "bytes_ours_over_plain": round(rows["ours"]["gigabytes_a_round"] / rows["plain"]["gigabytes_a_round"], 3),
                **rows,
            }
        )
    )


if __name__ == "__main__":
    main()
