"""One round of WGAN-GP (Gulrajani et al. 2017, Algorithm 1): n_critic critic steps and one generator step.

Every function runs in replica context: it sees this replica's rows, its gradients are summed over replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from components.train import losses, noise
from components.train.config import TrainConfig
from components.train.networks import ImageShape, make_critic, make_generator

PART_METRICS = ("critic_loss", "wasserstein_gap", "penalty", "generator_loss")  # parts of a sum over replicas
WHOLE_METRICS = ("critic_grad_norm", "generator_grad_norm")  # the same on every replica
METRICS = PART_METRICS + WHOLE_METRICS


class State(NamedTuple):
    """All that training changes."""

    generator: keras.Model
    critic: keras.Model
    ema_generator: keras.Model
    generator_optimizer: keras.optimizers.Optimizer
    critic_optimizer: keras.optimizers.Optimizer


def make_state(shape: ImageShape, config: TrainConfig, strategy: tf.distribute.Strategy) -> State:
    """Build networks and optimizers for `strategy`; the weights depend on the seed alone."""
    dtype = layer_dtype(config)
    with strategy.scope():
        generator = make_generator(shape, config, dtype)
        ema_generator = make_generator(shape, config, dtype)  # the same seed: it starts as a copy
        ema_generator.trainable = False
        critic = make_critic(shape, config, dtype)
        generator_optimizer = _make_optimizer(config, config.generator_learning_rate)
        critic_optimizer = _make_optimizer(config, config.critic_learning_rate)
        generator_optimizer.build(generator.trainable_variables)  # in the scope, before the first strategy.run
        critic_optimizer.build(critic.trainable_variables)
    return State(generator, critic, ema_generator, generator_optimizer, critic_optimizer)


def layer_dtype(config: TrainConfig) -> str:
    """Return the Keras dtype policy of the layers for `config.precision`."""
    bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and config.devices.startswith("tpu"))
    return "mixed_bfloat16" if bfloat16 else "float32"


class _GradientsAreSummed:
    """Keras optimizers sum gradients over replicas; ours come summed, since their global norm is reported.

    Overrides a private method of Keras 3.15; tests/parity fails if it stops being called.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars


class _Adam(_GradientsAreSummed, keras.optimizers.Adam):  # type: ignore[misc]
    pass


class _SGD(_GradientsAreSummed, keras.optimizers.SGD):  # type: ignore[misc]
    pass


def _make_optimizer(config: TrainConfig, learning_rate: float) -> keras.optimizers.Optimizer:
    if config.optimizer == "sgd":
        return _SGD(learning_rate)
    return _Adam(learning_rate, beta_1=config.beta_1, beta_2=config.beta_2)


def train_round(
    state: State, config: TrainConfig, batches: tf.Tensor, seed: tf.Tensor, round_index: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Do one round; return PART_METRICS and WHOLE_METRICS as float32 vectors, the critic's as means over its steps.

    `batches` are the global uint8 images [n_critic, B, H, W, C] of the round, `seed` its round_seed.
    """
    replica_id, replicas = _replica()
    critic_metrics = []
    for critic_index in range(config.n_critic):
        whole = noise.critic_noise(seed, critic_index, config.global_batch_size, config.latents)
        mine = noise.CriticNoise(*(noise.replica_rows(part, replica_id, replicas) for part in whole))
        images = noise.replica_rows(batches[critic_index], replica_id, replicas)
        critic_metrics.append(critic_step(state, config, to_float(images), mine))
    latents = noise.generator_latents(seed, config.n_critic, config.global_batch_size, config.latents)
    generator_loss, generator_norm = generator_step(state, config, noise.replica_rows(latents, replica_id, replicas))
    _update_ema(state, config, round_index)
    loss, gap, penalty, critic_norm = tf.unstack(tf.reduce_mean(tf.stack(critic_metrics), axis=0))
    return tf.stack([loss, gap, penalty, generator_loss]), tf.stack([critic_norm, generator_norm])


def critic_step(state: State, config: TrainConfig, real_images: tf.Tensor, step_noise: noise.CriticNoise) -> tf.Tensor:
    """Update the critic on this replica's rows; return critic_loss, wasserstein_gap, penalty, critic_grad_norm.

    The fakes are made outside the tape. Two passes, one of the mixed images under the inner tape and one of real and fake
    together, are 2.5 times faster than one pass with the input gradient of everything (docs/decisions/0002).
    """
    gradients, metrics = critic_gradients(state, config, real_images, step_noise)
    state.critic_optimizer.apply(gradients, state.critic.trainable_variables)
    return tf.stack([*metrics, tf.linalg.global_norm(gradients)])


def critic_gradients(
    state: State, config: TrainConfig, real_images: tf.Tensor, step_noise: noise.CriticNoise
) -> tuple[list[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Return the critic's gradients, summed over replicas, and this replica's parts of loss, gap and penalty."""
    fake_images = state.generator(step_noise.latents, training=True)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([variable.value for variable in state.critic.trainable_variables])
        mixed_images = losses.mixed_images(real_images, fake_images, step_noise.alpha)
        penalty = losses.penalty(losses.slopes(lambda images: state.critic(images, training=True), mixed_images))
        scores = state.critic(tf.concat([real_images, fake_images], axis=0), training=True)
        real_scores, fake_scores = tf.split(scores, 2)
        per_example = losses.critic_loss(real_scores, fake_scores) + config.penalty_weight * penalty
        loss = losses.replica_mean(per_example, config.global_batch_size)
    gap = losses.replica_mean(-losses.critic_loss(real_scores, fake_scores), config.global_batch_size)
    penalty_part = losses.replica_mean(penalty, config.global_batch_size)
    return _summed_gradients(tape, loss, state.critic.trainable_variables), (loss, gap, penalty_part)


def generator_step(state: State, config: TrainConfig, latents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Update the generator; return this replica's part of generator_loss, and generator_grad_norm."""
    gradients, loss = generator_gradients(state, config, latents)
    state.generator_optimizer.apply(gradients, state.generator.trainable_variables)
    return loss, tf.linalg.global_norm(gradients)


def generator_gradients(state: State, config: TrainConfig, latents: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Return the generator's gradients, summed over replicas, and this replica's part of its loss."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([variable.value for variable in state.generator.trainable_variables])
        fake_scores = state.critic(state.generator(latents, training=True), training=True)
        loss = losses.replica_mean(losses.generator_loss(fake_scores), config.global_batch_size)
    return _summed_gradients(tape, loss, state.generator.trainable_variables), loss


def to_float(images: tf.Tensor) -> tf.Tensor:
    """Map uint8 [0, 255] to float32 [-1, 1], the range of the generator."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_uint8(images: tf.Tensor) -> tf.Tensor:
    """Map float32 [-1, 1] to uint8 [0, 255], rounding to nearest."""
    return tf.cast(tf.clip_by_value(tf.round((images + 1.0) * 127.5), 0.0, 255.0), tf.uint8)


def _summed_gradients(tape: tf.GradientTape, loss: tf.Tensor, variables: Sequence[keras.Variable]) -> list[tf.Tensor]:
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    context = tf.distribute.get_replica_context()
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, gradients))


def _replica() -> tuple[tf.Tensor, int]:
    context = tf.distribute.get_replica_context()
    return tf.cast(context.replica_id_in_sync_group, tf.int32), int(context.num_replicas_in_sync)


def ema_decay(config: TrainConfig, round_index: tf.Tensor) -> tf.Tensor:
    """Return the share of the average that a round keeps; smaller in the first rounds, which should be forgotten soon."""
    done = tf.cast(round_index, tf.float32)
    return tf.minimum(0.5 ** (1.0 / config.ema_halflife_rounds), (1.0 + done) / (10.0 + done))


def _update_ema(state: State, config: TrainConfig, round_index: tf.Tensor) -> None:
    averages = [variable.value for variable in state.ema_generator.variables]
    values = [variable.value for variable in state.generator.variables]
    decay = ema_decay(config, round_index)

    def update(strategy: tf.distribute.Strategy, averages: list[Any], values: list[Any], decay: Any) -> None:
        for average, value in zip(averages, values, strict=True):
            strategy.extended.update(average, _move_towards, args=(value, decay), group=False)

    tf.distribute.get_replica_context().merge_call(update, args=(averages, values, decay))


def _move_towards(average: tf.Variable, value: tf.Tensor, decay: tf.Tensor) -> tf.Operation:
    return average.assign(decay * average + (1.0 - decay) * value)
