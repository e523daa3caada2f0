"""The objective of WGAN-GP compared with closed forms, finite differences and the Wasserstein-1 distance.

No tensor is created at import, because later tests in the same process set up virtual devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from scipy.stats import norm, wasserstein_distance

from components.train import losses
from components.train.config import TrainConfig
from components.train.networks import ImageShape, make_critic

Doubles = npt.NDArray[np.float64]
Critic = Callable[[tf.Tensor], tf.Tensor]

BATCH = 6
PIXELS = 4 * 4 * 2


def draw(seed: int, *shape: int) -> Doubles:
    return np.random.default_rng(seed).standard_normal(shape)


IMAGES = draw(1, BATCH, 4, 4, 2) * np.linspace(0.2, 2.0, BATCH).reshape(-1, 1, 1, 1)
FLAT = IMAGES.reshape(BATCH, PIXELS)


def mean_penalty(critic: Critic, images: tf.Tensor) -> tf.Tensor:
    """Return the global mean, like in training."""
    return losses.replica_mean(losses.penalty(losses.slopes(critic, images)), int(images.shape[0]))


def penalty_gradients(critic: Critic, weights: Sequence[tf.Variable], images: tf.Tensor) -> list[Doubles]:
    """Return the derivative of the mean penalty with respect to each weight; zeros for unconnected weights."""
    with tf.GradientTape() as tape:
        penalty = mean_penalty(critic, images)
    gradients = tape.gradient(penalty, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [gradient.numpy() for gradient in gradients]


class TestLinearCritic:
    """D(x) = w'x + c: slope |w| everywhere, and d/dw (|w| - 1)² = 2 (|w| - 1) w/|w|."""

    w = draw(2, PIXELS)
    norm = np.linalg.norm(w)

    def critic(self, w: tf.Tensor, c: float = 0.7) -> Critic:
        return lambda images: tf.linalg.matvec(tf.reshape(images, [-1, PIXELS]), w) + c

    def test_slopes_and_penalty(self) -> None:
        critic = self.critic(self.w)
        np.testing.assert_allclose(losses.slopes(critic, tf.constant(IMAGES)), np.full(BATCH, self.norm), rtol=1e-10)
        np.testing.assert_allclose(mean_penalty(critic, tf.constant(IMAGES)), (self.norm - 1) ** 2, rtol=1e-10)

    def test_gradient(self) -> None:
        w, c = tf.Variable(self.w), tf.Variable(0.7, dtype=tf.float64)
        by_w, by_c = penalty_gradients(self.critic(w, c), [w, c], tf.constant(IMAGES))
        np.testing.assert_allclose(by_w, 2 * (self.norm - 1) * self.w / self.norm, rtol=1e-10)
        assert by_c == 0.0

    def test_penalty_and_gradient_are_zero_at_slope_one(self) -> None:
        w = tf.Variable(self.w / self.norm)
        (gradient,) = penalty_gradients(self.critic(w), [w], tf.constant(IMAGES))
        np.testing.assert_allclose(mean_penalty(self.critic(w), tf.constant(IMAGES)), 0.0, atol=1e-20)
        np.testing.assert_allclose(gradient, 0.0, atol=1e-10)


class TestQuadraticCritic:
    """D(x) = x'Ax/2 + b'x with symmetric A: gradient g = Ax + b, slope |g|.

    With u = 2 (|g| - 1) g/|g|, the derivative of (|g| - 1)² is u with respect to b, and (ux' + xu')/2 with respect to A:
    TensorFlow varies A_ij without A_ji, and the gradient of x'Ax/2 depends on their mean.
    """

    b = draw(5, PIXELS) / 10
    A = (draw(4, PIXELS, PIXELS) + draw(4, PIXELS, PIXELS).T) / 40
    g = FLAT @ A + b
    slopes = np.linalg.norm(g, axis=1, keepdims=True)

    def critic(self, A: tf.Tensor, b: tf.Tensor) -> Critic:  # noqa: N803 - the matrix of the formula
        def scores(images: tf.Tensor) -> tf.Tensor:
            flat = tf.reshape(images, [-1, PIXELS])
            return tf.reduce_sum(flat * (flat @ A), axis=1) / 2 + tf.linalg.matvec(flat, b)

        return scores

    def test_slopes_and_penalty(self) -> None:
        assert self.slopes.min() < 0.7 < 1.4 < self.slopes.max()  # both sides of the penalty are tested
        critic = self.critic(self.A, self.b)
        np.testing.assert_allclose(losses.slopes(critic, tf.constant(IMAGES)), self.slopes[:, 0], rtol=1e-10)
        np.testing.assert_allclose(mean_penalty(critic, tf.constant(IMAGES)), np.mean((self.slopes - 1) ** 2), rtol=1e-10)

    def test_gradient(self) -> None:
        A, b = tf.Variable(self.A), tf.Variable(self.b)  # noqa: N806
        by_a, by_b = penalty_gradients(self.critic(A, b), [A, b], tf.constant(IMAGES))
        u = 2 * (self.slopes - 1) * self.g / self.slopes
        np.testing.assert_allclose(by_b, u.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(by_a, (u.T @ FLAT + FLAT.T @ u) / 2 / BATCH, rtol=1e-9, atol=1e-12)


@pytest.fixture
def _float64() -> Iterator[None]:
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()  # Keras derives the policy from floatx at first use
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


def real_critic(dtype: str) -> keras.Model:
    """Return the critic of a training, but small and with nonzero biases."""
    critic = make_critic(ImageShape(8, 2), TrainConfig(critic_channels=3), dtype)
    for index, variable in enumerate(critic.trainable_variables):
        if variable.path.endswith("bias"):
            variable.assign(0.1 * draw(100 + index, *variable.shape))
    return critic


def values(critic: keras.Model) -> list[tf.Variable]:
    return [variable.value for variable in critic.trainable_variables]


@pytest.mark.usefixtures("_float64")
class TestRealCritic:
    """Second derivatives through all layers, compared with central differences in float64."""

    images = draw(6, BATCH, 8, 8, 2)
    step = 1e-6  # the error is 1e-12 from the curvature and 1e-16/1e-6 from rounding

    def test_slopes(self) -> None:
        critic = real_critic("float64")
        # The last layer returns float32, which is not precise enough for differences of scores.
        in_full = keras.Model(critic.inputs, critic.get_layer("score").output)
        slopes = losses.slopes(critic, tf.constant(self.images))
        moves = self.step * np.eye(8 * 8 * 2).reshape(-1, 8, 8, 2)  # one pixel each
        for image, slope in zip(self.images, slopes, strict=True):
            differences = in_full(tf.constant(image + moves)) - in_full(tf.constant(image - moves))
            assert float(slope) == pytest.approx(np.linalg.norm(differences) / (2 * self.step), rel=1e-7)

    def test_penalty_gradient_along_random_directions(self) -> None:
        critic = real_critic("float64")
        weights = values(critic)
        gradients = penalty_gradients(critic, weights, tf.constant(self.images))
        for seed in range(5):
            directions = [draw(10 * seed + index, *weight.shape) for index, weight in enumerate(weights)]
            along = sum(float(np.sum(g * d)) for g, d in zip(gradients, directions, strict=True))
            assert along == pytest.approx(self.difference(critic, weights, directions), rel=1e-6)

    def test_penalty_gradient_of_single_weights(self) -> None:
        """Each kernel is tested separately, because the error of one may be small in a sum."""
        critic = real_critic("float64")
        weights = values(critic)
        gradients = penalty_gradients(critic, weights, tf.constant(self.images))
        generator = np.random.default_rng(8)
        for layer, gradient in enumerate(gradients):
            assert gradient.dtype == np.float64
            for index in generator.choice(gradient.size, min(4, gradient.size), replace=False):
                directions = [np.zeros(weight.shape) for weight in weights]
                directions[layer].flat[index] = 1.0
                difference = self.difference(critic, weights, directions)
                assert gradient.flat[index] == pytest.approx(difference, rel=1e-6, abs=1e-8)

    def difference(self, critic: keras.Model, weights: Sequence[tf.Variable], directions: Sequence[Doubles]) -> float:
        """Return the central difference of the mean penalty along a direction in the space of the weights."""
        ends = []
        for sign in (1.0, -2.0, 1.0):  # forward, to the other side, and back
            for weight, direction in zip(weights, directions, strict=True):
                weight.assign_add(sign * self.step * direction)
            ends.append(float(mean_penalty(critic, tf.constant(self.images))))
        return (ends[0] - ends[1]) / (2 * self.step)


class TestFlatCritic:
    """For a constant critic, the slope is 0, the penalty 1, and the derivative of the root would be infinite."""

    images = draw(9, BATCH, 8, 8, 2).astype(np.float32)
    zeroed = pytest.mark.parametrize("zeroed", ["everything", "the last layer"])

    @zeroed
    def test_penalty_is_finite_and_its_gradient_is_zero(self, zeroed: str) -> None:
        critic = flat_critic(zeroed)
        np.testing.assert_allclose(mean_penalty(critic, tf.constant(self.images)), 1.0, rtol=1e-5)
        for gradient in penalty_gradients(critic, values(critic), tf.constant(self.images)):
            np.testing.assert_array_equal(gradient, np.zeros_like(gradient))

    @zeroed
    def test_slopes_have_no_gradient_at_the_images(self, zeroed: str) -> None:
        critic, images = flat_critic(zeroed), tf.constant(self.images)
        with tf.GradientTape() as tape:
            tape.watch(images)
            slopes = losses.slopes(critic, images)
        gradient = tape.gradient(slopes, images, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        np.testing.assert_array_equal(gradient, np.zeros(images.shape))
        assert np.isfinite(slopes).all()

    def test_the_critic_loss_has_a_gradient(self) -> None:
        critic, images = flat_critic("the last layer"), tf.constant(self.images)
        fakes = tf.constant(draw(10, BATCH, 8, 8, 2), tf.float32)
        with tf.GradientTape() as tape:
            penalty = losses.penalty(losses.slopes(critic, (images + fakes) / 2))
            loss = losses.replica_mean(losses.critic_loss(critic(images), critic(fakes)) + 10.0 * penalty, BATCH)
        gradients = dict(zip([weight.path for weight in critic.weights], tape.gradient(loss, values(critic)), strict=True))
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())
        assert np.abs(gradients["score/kernel"]).max() > 1e-3

    def test_without_the_epsilon_the_gradient_is_nan(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(losses, "SLOPE_EPSILON", 0.0)
        critic = flat_critic("the last layer")
        gradients = penalty_gradients(critic, values(critic), tf.constant(self.images))
        assert any(np.isnan(gradient).any() for gradient in gradients)


def flat_critic(zeroed: str) -> keras.Model:
    critic = real_critic("float32")
    for variable in critic.trainable_variables if zeroed == "everything" else critic.get_layer("score").trainable_variables:
        variable.assign(tf.zeros(variable.shape))
    return critic


class Line(NamedTuple):
    """A Gaussian in one dimension."""

    mean: float
    deviation: float

    def quantiles(self, count: int = 20_000) -> Doubles:
        """Return evenly spaced quantiles, as a sample without noise."""
        return norm.ppf((np.arange(count) + 0.5) / count, self.mean, self.deviation)


PAIRS = {  # real, fake, and the distance where it has a closed form
    "shifted": (Line(0.3, 0.7), Line(-0.2, 0.7), 0.5),  # equal deviations: the difference of the means
    "scaled": (Line(0.0, 0.6), Line(0.0, 0.3), 0.3 * np.sqrt(2 / np.pi)),  # equal means: |σ - τ| E|Z|
    "shifted and scaled": (Line(0.2, 0.5), Line(-0.2, 0.3), None),
}


class TestOptimalCritic:
    """A critic trained to convergence measures the Wasserstein-1 distance of two Gaussians in one dimension.

    The optimum of the objective is 1 to 3 % larger: where the distribution functions F and G differ, the penalty allows a slope
    of 1 + |F - G| / (2λp), where p is the density of mixed images (0.5 becomes 0.5137 for the shifted pair).
    """

    @pytest.mark.parametrize("pair", PAIRS)
    def test_the_gap_is_the_distance(self, pair: str) -> None:
        real, fake, closed_form = PAIRS[pair]
        distance = wasserstein_distance(real.quantiles(), fake.quantiles())
        if closed_form is not None:
            assert distance == pytest.approx(closed_form, rel=1e-3)
        assert gap(trained_critic(real, fake), real, fake) == pytest.approx(distance, rel=0.05)

    def test_without_the_penalty_the_gap_is_larger(self) -> None:
        real, fake, distance = PAIRS["shifted"]
        assert gap(trained_critic(real, fake, penalty_weight=0.0, steps=100), real, fake) > 2 * distance


def gap(critic: keras.Model, real: Line, fake: Line) -> float:
    """Return the mean score of real minus that of fake."""
    real_score, fake_score = (np.mean(critic(line.quantiles().reshape(-1, 1, 1, 1))) for line in (real, fake))
    return float(real_score - fake_score)


def trained_critic(real: Line, fake: Line, penalty_weight: float = 10.0, steps: int = 600, batch: int = 256) -> keras.Model:
    """Return a critic of images [B, 1, 1, 1], trained on critic_loss + λ·penalty with a new sample in each step.

    It starts with zero slope: in one dimension, the penalty separates positive from negative slopes, so a critic that starts
    with the wrong sign keeps it.
    """
    dense = [keras.layers.Dense(32, "leaky_relu", kernel_initializer=keras.initializers.GlorotUniform(seed)) for seed in (1, 2)]
    last = [keras.layers.Dense(1, kernel_initializer="zeros"), keras.layers.Reshape([])]
    critic = keras.Sequential([keras.Input([1, 1, 1]), keras.layers.Flatten(), *dense, *last])
    weights = critic.trainable_variables
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, steps), beta_1=0.5, beta_2=0.9)
    optimizer.build(weights)

    @tf.function
    def train() -> None:
        for index in tf.range(steps):
            seed = tf.random.fold_in(tf.constant([3, 0]), index)
            latents = tf.random.stateless_normal([2, batch, 1, 1, 1], seed)
            alpha = tf.random.stateless_uniform([batch], tf.random.fold_in(seed, 1))
            real_images, fake_images = (line.mean + line.deviation * z for line, z in ((real, latents[0]), (fake, latents[1])))
            with tf.GradientTape() as tape:
                penalty = losses.penalty(losses.slopes(critic, losses.mixed_images(real_images, fake_images, alpha)))
                per_example = losses.critic_loss(critic(real_images), critic(fake_images)) + penalty_weight * penalty
                loss = losses.replica_mean(per_example, batch)
            optimizer.apply(tape.gradient(loss, [weight.value for weight in weights]), weights)

    train()
    return critic
