"""Rounds a second of our training compared with a plain transcription of WGAN-GP's Algorithm 1; prints a JSON line.

Plain: Gulrajani et al. 2017, Algorithm 1 transcribed directly. The critic is called three times (real, fake, mixed), the fakes
are made inside the tape, everything is float32, each step is one call, and batches come from tf.data. Networks, batch,
optimizers and cores are the same; pairs are interleaved, so that a change of the machine's speed affects both.

    python benchmarks/train_throughput.py [--pairs 5] [--size 28] [--rounds 50] [--precision float32]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # for both; by default TensorFlow uses it only with AVX-512

import keras
import numpy as np
import tensorflow as tf

from components.dataset.records import NO_LABEL
from components.train import loop, noise, step
from components.train.config import TrainConfig
from components.train.data.batches import RoundBatches
from components.train.data.resident import Resident
from components.train.devices import host_call
from components.train.layers.activations import NORM_EPSILON, Leaky, Normalised
from components.train.layers.strided import UpConv
from components.train.networks import ImageShape, make_critic, make_generator

Seconds = Callable[[], float]


def ours(shape: ImageShape, config: TrainConfig, images: np.ndarray) -> Seconds:
    """Return a function that trains one host call with components.train and returns the seconds."""
    tf.config.optimizer.set_experimental_options({"remapping": False})
    strategy = tf.distribute.get_strategy()
    labels = np.full(len(images), NO_LABEL)
    source = Resident(images, labels, seed=config.seed, n_critic=config.n_critic, batch_size=config.global_batch_size)
    call = host_call.make_call(step.make_state(shape, config, strategy), config, strategy, source)
    done = 0

    def run() -> float:
        nonlocal done
        logged = loop.run_call(call, config, source, done)
        done = logged.round
        return logged.seconds

    return run


def convolution_flops(shape: ImageShape, config: TrainConfig) -> float:
    """Return the floating-point operations of all convolutions of one of our rounds, gradients included.

    They are counted in the graph for GPUs: that for CPUs does some of them as matrix products, and others in another form.
    """
    config = config.model_copy(update={"devices": "gpu"})
    state = step.make_state(shape, config, tf.distribute.get_strategy())
    rows = [config.n_critic, config.global_batch_size]

    @tf.function
    def one_round() -> tuple[tf.Tensor, tf.Tensor]:
        batch = RoundBatches(tf.zeros([*rows, shape.size, shape.size, shape.channels], tf.uint8), tf.zeros(rows, tf.int32))
        with tf.name_scope("round"):
            return step.train_round(state, config, batch, tf.constant(0))

    graph = one_round.get_concrete_function().graph
    wanted = [output.op for output in graph.outputs] + list(graph.control_outputs)
    reached: set[str] = set()
    total = 0.0
    while wanted:  # backwards from what is returned or assigned, because TensorFlow prunes the rest
        operation = wanted.pop()
        if operation.name in reached:
            continue
        reached.add(operation.name)
        wanted += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
        # The tensors with the pixels of the strided side, and with the kernel, depend on the operation.
        sides = {
            "Conv2D": lambda op: (op.outputs[0], op.inputs[1]),
            "Conv2DBackpropInput": lambda op: (op.inputs[2], op.inputs[1]),
            "Conv2DBackpropFilter": lambda op: (op.inputs[2], op.outputs[0]),
        }.get(operation.type)
        if sides:
            pixels, kernel = (tensor.shape for tensor in sides(operation))
            total += 2.0 * np.prod(pixels[:3]) * np.prod(kernel)
    return total


def noise_only(config: TrainConfig, rounds: int) -> Seconds:
    """Return a function that draws the noise of `rounds` rounds, as the loop does, and returns the seconds."""
    rows = noise.Rows(0, config.global_batch_size)

    @tf.function
    def call(first_round: tf.Tensor) -> tf.Tensor:
        total = tf.zeros([])
        for offset in tf.range(rounds):
            drawn = noise.round_noise(config.seed, first_round + offset, rows, config.n_critic, config.latents)
            total += drawn.latents[0, 0, 0] + drawn.alphas[0, 0]
        return total

    def run() -> float:
        started = time.monotonic()
        float(call(tf.constant(0)))
        return time.monotonic() - started

    return run


def convolution_peak(repeats: int = 20) -> float:
    """Return the operations a second of one large convolution, the best of `repeats`, as the peak of these cores."""
    images, kernel = tf.ones([64, 28, 28, 64]), tf.ones([3, 3, 64, 64])
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        tf.nn.conv2d(images, kernel, 1, "SAME").numpy()
        seconds.append(time.perf_counter() - started)
    return 2.0 * 64 * 28 * 28 * 9 * 64 * 64 / min(seconds)


def with_keras_layers(network: keras.Model, example: tf.Tensor) -> keras.Model:
    """Return the same function of the same weights, built from Keras' own layers."""
    x = inputs = keras.Input(example.shape[1:])
    for layer in network.layers[1:]:
        if isinstance(layer, UpConv):
            x = keras.layers.Conv2D(layer.channels, 3, padding="same")(keras.layers.UpSampling2D(2)(x))
        elif isinstance(layer, Leaky):
            x = keras.layers.LeakyReLU(layer.slope)(x)
        elif isinstance(layer, Normalised):
            x = keras.layers.LeakyReLU(layer.activation.slope)(keras.layers.LayerNormalization(epsilon=NORM_EPSILON)(x))
        else:
            x = type(layer).from_config(layer.get_config())(x)
    plain_network = keras.Model(inputs, x)
    plain_network.set_weights(network.get_weights())
    np.testing.assert_allclose(plain_network(example), network(example), atol=1e-5)
    return plain_network


def plain(shape: ImageShape, config: TrainConfig, images: np.ndarray, rounds: int) -> Seconds:
    """Return a function that trains `rounds` rounds with the plain transcription and returns the seconds."""
    latents = tf.random.stateless_normal([4, config.latents], [0, 0])
    generator = with_keras_layers(make_generator(shape, config), latents)
    critic = with_keras_layers(make_critic(shape, config), generator(latents))
    generator_adam = keras.optimizers.Adam(config.generator_learning_rate, config.beta_1, config.beta_2)
    critic_adam = keras.optimizers.Adam(config.critic_learning_rate, config.beta_1, config.beta_2)
    batch = config.global_batch_size
    data = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images)).repeat().batch(batch, drop_remainder=True)
    batches = iter(data.map(step.to_float).prefetch(tf.data.AUTOTUNE))

    @tf.function
    def critic_step(real: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            fake = generator(tf.random.normal([batch, config.latents]), training=True)
            alpha = tf.random.uniform([batch, 1, 1, 1])
            mixed = alpha * real + (1 - alpha) * fake
            with tf.GradientTape() as inner:
                inner.watch(mixed)
                mixed_scores = critic(mixed, training=True)
            slopes = tf.sqrt(tf.reduce_sum(inner.gradient(mixed_scores, mixed) ** 2, axis=[1, 2, 3]) + 1e-12)
            penalty = tf.reduce_mean((slopes - 1) ** 2)
            gap = tf.reduce_mean(critic(real, training=True)) - tf.reduce_mean(critic(fake, training=True))
            loss = -gap + config.penalty_weight * penalty
        critic_adam.apply(tape.gradient(loss, critic.trainable_variables), critic.trainable_variables)
        return loss

    @tf.function
    def generator_step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(critic(generator(tf.random.normal([batch, config.latents]), training=True)))
        generator_adam.apply(tape.gradient(loss, generator.trainable_variables), generator.trainable_variables)
        return loss

    def run() -> float:
        started = time.monotonic()
        for _ in range(rounds):
            for _ in range(config.n_critic):
                critic_step(next(batches))
            loss = generator_step()
        float(loss)
        return time.monotonic() - started

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    shape = ImageShape(arguments.size, 1)
    config = TrainConfig(
        rounds=max(step.COMPILED_ROUNDS, arguments.rounds * (arguments.pairs + 1)),
        log_every_rounds=arguments.rounds, precision=arguments.precision,
        checkpoint_every_rounds=arguments.rounds, sample_every_rounds=arguments.rounds,
    )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (2000, shape.size, shape.size, 1)).astype(np.uint8)
    one, other = ours(shape, config, images), plain(shape, config, images, arguments.rounds)
    draw = noise_only(config, arguments.rounds)
    one(), other(), draw()  # trace and warm up
    measured = [(one(), other(), draw()) for _ in range(arguments.pairs)]
    ratios = [theirs / mine for mine, theirs, _ in measured]
    seconds_a_round = statistics.median(mine for mine, _, _ in measured) / arguments.rounds
    flops, peak = convolution_flops(shape, config), convolution_peak()
    row = {
        "benchmark": "train_throughput",
        "image_size": arguments.size,
        "precision": arguments.precision,
        "batch": config.global_batch_size,
        "rounds_a_measurement": arguments.rounds,
        "ours_over_plain": round(statistics.median(ratios), 3),
        "lowest_pair": round(min(ratios), 3),
        "highest_pair": round(max(ratios), 3),
        "ours_rounds_per_second": round(arguments.rounds / statistics.median(mine for mine, _, _ in measured), 2),
        "noise_share": round(statistics.median(drawing / mine for mine, _, drawing in measured), 4),
        "convolution_gflop_a_round": round(flops / 1e9, 2),
        "convolution_peak_gflops_float32": round(peak / 1e9, 1),
        "share_of_convolution_peak": round(flops / seconds_a_round / peak, 3),
        "plain_rounds_per_second": round(arguments.rounds / statistics.median(theirs for _, theirs, _ in measured), 2),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
