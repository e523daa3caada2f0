"""One round of WGAN-GP (Gulrajani et al. 2017, Algorithm 1): n_critic critic steps and one generator step.

Every function runs in replica context: it sees the rows of one replica, and gradients are summed over replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from components.train import losses, noise
from components.train.config import TrainConfig
from components.train.data.batches import RoundBatches
from components.train.layers.fused import compile_first
from components.train.networks import ImageShape, generate, make_critic, make_generator, score

PART_METRICS = ("critic_loss", "wasserstein_gap", "penalty", "generator_loss")  # each replica has a part of the sum
WHOLE_METRICS = ("critic_grad_norm", "generator_grad_norm")  # equal on all replicas
METRICS = PART_METRICS + WHOLE_METRICS
COMPILED_ROUNDS = 300  # for fewer, the layers for CPUs do not gain the one or two seconds that compiling takes


class State(NamedTuple):
    """Everything that training changes."""

    generator: keras.Model
    critic: keras.Model
    ema_generator: keras.Model
    generator_optimizer: keras.optimizers.Optimizer
    critic_optimizer: keras.optimizers.Optimizer


def make_state(shape: ImageShape, config: TrainConfig, strategy: tf.distribute.Strategy) -> State:
    """Build networks and optimizers for `strategy`; the initial weights depend only on the seed.

    From here on this process multiplies float32 in float32: by default, a TPU rounds the factors to bfloat16 and a GPU to TF32.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    dtype, on_cpu = layer_dtype(config), config.devices.startswith("cpu") and config.rounds >= COMPILED_ROUNDS
    if on_cpu:
        compile_first()
    with strategy.scope():
        generator = make_generator(shape, config, dtype, on_cpu)
        ema_generator = make_generator(shape, config, dtype, on_cpu)  # with the same seed, so it starts as a copy
        ema_generator.trainable = False
        critic = make_critic(shape, config, dtype, on_cpu)
        generator_optimizer = _make_optimizer(config, config.generator_learning_rate)
        critic_optimizer = _make_optimizer(config, config.critic_learning_rate)
        generator_optimizer.build(generator.trainable_variables)  # in the scope, before the first strategy.run
        critic_optimizer.build(critic.trainable_variables)
    return State(generator, critic, ema_generator, generator_optimizer, critic_optimizer)


def layer_dtype(config: TrainConfig) -> str:
    """Return the Keras dtype policy of the layers for `config.precision`."""
    bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and config.devices.startswith("tpu"))
    return "mixed_bfloat16" if bfloat16 else "float32"


class _Update:
    """What the optimizers here do differently from those of Keras.

    They do not sum gradients over replicas: those are summed before, for their global norm. This overrides a private method of
    Keras 3.15; tests/parity fails if Keras stops calling it. And the learning rate is multiplied by `rate_share`, if it is set.
    """

    rate_share: tf.Tensor | None = None

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the next update."""
        rate = super().learning_rate  # type: ignore[misc]
        return rate if self.rate_share is None else rate * self.rate_share


class _Adam(_Update, keras.optimizers.Adam):  # type: ignore[misc]
    pass


class _LeanAdam(_Adam):
    """Adam that does not use the variables of the first moment if beta_1 is 0, when it equals the gradient.

    Keras would read and write them: seven arrays an update instead of five. Only for the program of a TPU: in the graph of
    MirroredStrategy, Grappler rewrites this update in another way for the first replica than for the others, and their copies
    of a variable then differ in the last bit.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update `variable` and its moments (Kingma and Ba 2015, Algorithm 1, as Keras writes it)."""
        if self.beta_1:
            super().update_step(gradient, variable, learning_rate)
            return
        square = self._velocities[self._get_variable_index(variable)]
        power = tf.pow(tf.cast(self.beta_2, variable.dtype), tf.cast(self.iterations + 1, variable.dtype))
        self.assign_add(square, (tf.square(gradient) - square) * (1.0 - self.beta_2))
        step_size = tf.cast(learning_rate, variable.dtype) * tf.sqrt(1.0 - power)
        self.assign_sub(variable, gradient * step_size / (tf.sqrt(square) + self.epsilon))


class _SGD(_Update, keras.optimizers.SGD):  # type: ignore[misc]
    pass


def _make_optimizer(config: TrainConfig, learning_rate: float) -> keras.optimizers.Optimizer:
    if config.optimizer == "sgd":
        return _SGD(learning_rate, name="sgd")  # the default would be "_sgd", which is not a valid name of a scope
    adam = _LeanAdam if config.devices.startswith("tpu") else _Adam
    return adam(learning_rate, beta_1=config.beta_1, beta_2=config.beta_2, name="adam")


def train_round(state: State, config: TrainConfig, batch: RoundBatches, round_index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Run one round; return PART_METRICS and WHOLE_METRICS as float32 vectors, those of the critic as means over its steps.

    `batch` holds this replica's images and labels of the round. The fake images of all critic steps are generated at once
    before the first step: the generator does not change during the critic steps. In the loop of a TPU, each step generates its
    own, because the features of all together do not fit into the chip's own memory.
    """
    rows = own_rows(config)
    latents, alphas = noise.round_noise(config.seed, round_index, rows, config.n_critic, config.latents)
    images, labels = batch
    state.critic_optimizer.rate_share = state.generator_optimizer.rate_share = rate_share(config, round_index)

    at_once: list[tf.Tensor] = []
    if not _has_loop(config):
        of_all = tf.reshape(latents[: config.n_critic], [-1, config.latents])
        at_once = tf.split(generate(state.generator, of_all, tf.reshape(labels, [-1])), config.n_critic)

    def one(index: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        fake_images = at_once[index] if at_once else generate(state.generator, latents[index], labels[index])
        return critic_step(
            state, config, Examples(to_float(images[index]), fake_images, alphas[index], labels[index]), round_index
        )

    critic_parts, critic_norms = _in_turn(one, config)
    generator_loss, generator_norm = generator_step(state, config, latents[config.n_critic], labels[0])
    _update_ema(state, config)
    loss, gap, penalty = tf.unstack(tf.reduce_mean(critic_parts, axis=0))
    return tf.stack([loss, gap, penalty, generator_loss]), tf.stack([tf.reduce_mean(critic_norms), generator_norm])


def _has_loop(config: TrainConfig) -> bool:
    """Return whether the critic steps are a loop in the program, as on a TPU.

    It then compiles in half the time and needs half the memory (docs/tpu.md). The all_reduce of MirroredStrategy is not
    possible in a loop.
    """
    return config.devices.startswith("tpu") and config.n_critic > 1


def _in_turn(one: Callable[[int | tf.Tensor], tuple[tf.Tensor, tf.Tensor]], config: TrainConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Run one(index) for each critic step, in order, and return each of its two results, stacked."""
    steps = config.n_critic
    if not _has_loop(config):
        parts, norms = zip(*(one(index) for index in range(steps)), strict=True)
        return tf.stack(parts), tf.stack(norms)

    def write(index: tf.Tensor, parts: tf.TensorArray, norms: tf.TensorArray) -> tuple[Any, ...]:
        here = one(index)
        return index + 1, parts.write(index, here[0]), norms.write(index, here[1])

    rows = [tf.TensorArray(tf.float32, steps, element_shape=shape) for shape in ([3], [])]
    _, parts, norms = tf.while_loop(lambda index, *_: index < steps, write, (0, *rows), maximum_iterations=steps)
    return parts.stack(), norms.stack()


class Examples(NamedTuple):
    """This replica's rows of a critic step: images [b, H, W, C] float32, alpha [b], labels int32 [b].

    A fake image has the label of the real image that it is mixed with, so a mixed image has one label too.
    """

    real_images: tf.Tensor
    fake_images: tf.Tensor
    alpha: tf.Tensor
    labels: tf.Tensor


def critic_step(state: State, config: TrainConfig, examples: Examples, round_index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Update the critic; return this replica's part of critic_loss, wasserstein_gap and penalty [3], and critic_grad_norm.

    With `penalty_every_rounds` = k, only every k-th round has the penalty, with k times its weight (Karras et al. 2020,
    arXiv:1912.04958, section 3.1). Its metric is k times as large in those rounds and 0 in others, so the mean over k rounds is
    right.
    """
    every = config.penalty_every_rounds

    def with_weight(weight: float) -> tuple[list[tf.Tensor], tuple[tf.Tensor, ...]]:
        return critic_gradients(state, config, examples, weight)

    if config.lipschitz == "clip":
        gradients, metrics = with_weight(0.0)
    elif every == 1:
        gradients, metrics = with_weight(config.penalty_weight)
    else:
        has_penalty = tf.equal(round_index % every, 0)
        gradients, metrics = tf.cond(has_penalty, lambda: with_weight(config.penalty_weight * every), lambda: with_weight(0.0))
        metrics = (*metrics[:2], metrics[2] * tf.cast(every, tf.float32))
    gradients = summed(gradients)
    state.critic_optimizer.apply(gradients, state.critic.trainable_variables)
    if config.lipschitz == "clip":
        _assign_each(state.critic.variables, _clipped, [(config.clip_value,)] * len(state.critic.variables))
    return tf.stack(metrics), tf.linalg.global_norm(gradients)


def critic_gradients(
    state: State, config: TrainConfig, examples: Examples, penalty_weight: float
) -> tuple[list[tf.Tensor], tuple[tf.Tensor, ...]]:
    """Return this replica's parts of the critic's gradients, and of loss, gap and penalty (none if its weight is 0).

    Two passes (the mixed images under the inner tape, then real and fake images together) are 2.5 times as fast as one pass
    with the input gradient of all images (docs/decisions/0002).
    """
    real_images, fake_images, alpha, labels = examples
    batch = config.global_batch_size
    penalty = tf.zeros_like(alpha)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([variable.value for variable in state.critic.trainable_variables])
        if penalty_weight:
            mixed_images = losses.mixed_images(real_images, fake_images, alpha)
            penalty = losses.penalty(losses.slopes(lambda images: score(state.critic, images, labels), mixed_images))
        both = tf.concat([real_images, fake_images], axis=0)
        real_scores, fake_scores = tf.split(score(state.critic, both, tf.concat([labels, labels], axis=0)), 2)
        per_example = losses.critic_loss(real_scores, fake_scores) + penalty_weight * penalty
        loss = losses.replica_mean(per_example, batch)
    gap = losses.replica_mean(-losses.critic_loss(real_scores, fake_scores), batch)
    gradients = tape.gradient(loss, [variable.value for variable in state.critic.trainable_variables])
    return gradients, (loss, gap, losses.replica_mean(penalty, batch))


def generator_step(state: State, config: TrainConfig, latents: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Update the generator; return this replica's part of generator_loss, and generator_grad_norm."""
    parts, loss = generator_gradients(state, config, latents, labels)
    gradients = summed(parts)
    state.generator_optimizer.apply(gradients, state.generator.trainable_variables)
    return loss, tf.linalg.global_norm(gradients)


def generator_gradients(
    state: State, config: TrainConfig, latents: tf.Tensor, labels: tf.Tensor
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Return this replica's parts of the generator's gradients, and of its loss."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([variable.value for variable in state.generator.trainable_variables])
        fake_scores = score(state.critic, generate(state.generator, latents, labels), labels)
        loss = losses.replica_mean(losses.generator_loss(fake_scores), config.global_batch_size)
    return tape.gradient(loss, [variable.value for variable in state.generator.trainable_variables]), loss


def summed(gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Return the gradients summed over replicas: the gradients of the global mean, if each replica has those of its part."""
    return list(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(gradients)))


def rate_share(config: TrainConfig, round_index: tf.Tensor) -> tf.Tensor | None:
    """Return the share of the learning rates in this round: 1, then falling linearly to 0 at the end; None if they never fall.

    In the program of Gulrajani et al. 2017 for CIFAR-10 (gan_cifar_resnet.py), they fall during all of the training.
    """
    falling = round(config.decay_share * config.rounds)
    return tf.minimum(1.0, tf.cast(config.rounds - round_index, tf.float32) / falling) if falling else None


def to_float(images: tf.Tensor) -> tf.Tensor:
    """Map uint8 [0, 255] to float32 [-1, 1], the range of the generator."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_uint8(images: tf.Tensor) -> tf.Tensor:
    """Map float32 [-1, 1] to uint8 [0, 255], rounding to nearest."""
    return tf.cast(tf.clip_by_value(tf.round((images + 1.0) * 127.5), 0.0, 255.0), tf.uint8)


def own_rows(config: TrainConfig) -> noise.Rows:
    """Return this replica's rows of the global batch."""
    context = tf.distribute.get_replica_context()
    replica_id, replicas = tf.cast(context.replica_id_in_sync_group, tf.int32), int(context.num_replicas_in_sync)
    return noise.replica_rows(replica_id, replicas, config.global_batch_size)


def ema_decay(config: TrainConfig, averaged: tf.Tensor) -> tf.Tensor:
    """Return the share of the average that a round keeps, after `averaged` rounds.

    It is smaller in the first rounds, so that they are forgotten soon.
    """
    done = tf.cast(averaged, tf.float32)
    return tf.minimum(0.5 ** (1.0 / config.ema_halflife_rounds), (1.0 + done) / (10.0 + done))


def _update_ema(state: State, config: TrainConfig) -> None:
    # The optimizer counts the rounds of the champion too, if training started from one: its average goes on.
    decay = ema_decay(config, state.generator_optimizer.iterations.value - 1)
    _assign_each(state.ema_generator.variables, _move_towards, [(each.value, decay) for each in state.generator.variables])


def _assign_each(variables: Sequence[keras.Variable], update: Any, arguments: list[tuple[Any, ...]]) -> None:
    """Call update(variable, *arguments) for each variable and its arguments, on all replicas."""
    targets = [variable.value for variable in variables]

    def on_all(strategy: tf.distribute.Strategy, targets: list[Any], arguments: list[tuple[Any, ...]]) -> None:
        for target, each in zip(targets, arguments, strict=True):
            strategy.extended.update(target, update, args=each, group=False)

    tf.distribute.get_replica_context().merge_call(on_all, args=(targets, arguments))


def _move_towards(average: tf.Variable, value: tf.Tensor, decay: tf.Tensor) -> tf.Operation:
    return average.assign(decay * average + (1.0 - decay) * value)


def _clipped(weight: tf.Variable, limit: float) -> tf.Operation:
    return weight.assign(tf.clip_by_value(weight, -limit, limit))
