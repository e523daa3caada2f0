"""Common mistakes in training on replicas, made on purpose: the comparison of test_replicas.py must detect them.

See docs/decisions/0004. The trainings have too few rounds for compiled layers, which the mistakes do not depend on.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tensorflow as tf

from components.train import losses, noise, step
from tests.parity.training import ROUNDS, Arrays, assert_parity, first_step, trained

REPLICAS = 2


@pytest.fixture(scope="module")
def one_first_step() -> Arrays:
    return first_step(1, rounds=ROUNDS)


@pytest.fixture(scope="module")
def one_trained() -> tuple[Arrays, Arrays]:
    return trained(1, rounds=ROUNDS)


def mean_of_means(per_example: tf.Tensor, _: int) -> tf.Tensor:
    """Average over the rows of the replica, then over replicas: correct only if all have equally many rows."""
    return tf.reduce_mean(per_example) / REPLICAS


def uneven_rows(replica_id: tf.Tensor, replicas: int, global_batch_size: int) -> noise.Rows:
    """Give five eighths of the rows to replica 0 and three to replica 1, like an uneven last batch."""
    assert replicas == REPLICAS
    first = global_batch_size * 5 // 8
    return noise.Rows(*tf.unstack(tf.where(replica_id == 0, [0, first], [first, global_batch_size - first])))


class TestScale:
    @pytest.mark.parametrize(
        "share",
        [
            pytest.param(lambda per_example, _: tf.reduce_sum(per_example), id="sum of the replica's rows"),
            pytest.param(lambda per_example, _: tf.reduce_mean(per_example), id="mean of the replica's rows"),
        ],
    )
    def test_wrong_division_of_the_loss(
        self, share: Callable[[tf.Tensor, int], tf.Tensor], monkeypatch: pytest.MonkeyPatch, one_first_step: Arrays
    ) -> None:
        monkeypatch.setattr(losses, "replica_mean", share)
        wrong = first_step(REPLICAS, rounds=ROUNDS)
        with pytest.raises(AssertionError, match=r"19 of 20 arrays differ: gradient/00.* generator_loss"):
            assert_parity(one_first_step, wrong)

    def test_gradients_summed_twice(self, monkeypatch: pytest.MonkeyPatch, one_trained: tuple[Arrays, Arrays]) -> None:
        """Also fails if Keras stops calling the private method that step.py overrides."""
        monkeypatch.delattr(step._Update, "_all_reduce_sum_gradients")
        arrays, _ = trained(REPLICAS, rounds=ROUNDS)
        with pytest.raises(AssertionError, match="generator/000/kernel"):
            assert_parity(one_trained[0], arrays)

    def test_metrics_averaged_instead_of_summed(
        self, monkeypatch: pytest.MonkeyPatch, one_trained: tuple[Arrays, Arrays]
    ) -> None:
        """The training is correct, but not its metrics."""
        real = tf.distribute.MirroredStrategy.reduce
        monkeypatch.setattr(
            tf.distribute.MirroredStrategy, "reduce", lambda self, _, value, axis: real(self, "MEAN", value, axis=axis)
        )
        arrays, metrics = trained(REPLICAS, rounds=ROUNDS)
        assert_parity(one_trained[0], arrays)
        with pytest.raises(AssertionError, match=r"4 of 6 arrays differ: critic_loss by 5.0e-01"):
            assert_parity(one_trained[1], metrics)


class TestUnevenBatch:
    """With uneven rows, only division by the global batch size gives the global mean."""

    def test_division_by_the_global_batch_size_is_correct(
        self, monkeypatch: pytest.MonkeyPatch, one_first_step: Arrays
    ) -> None:
        monkeypatch.setattr(noise, "replica_rows", uneven_rows)
        assert_parity(one_first_step, first_step(REPLICAS, rounds=ROUNDS))

    def test_a_mean_of_means_is_detected(self, monkeypatch: pytest.MonkeyPatch, one_first_step: Arrays) -> None:
        monkeypatch.setattr(noise, "replica_rows", uneven_rows)
        monkeypatch.setattr(losses, "replica_mean", mean_of_means)
        wrong = first_step(REPLICAS, rounds=ROUNDS)
        with pytest.raises(AssertionError, match=r"arrays differ: gradient/00.* generator_loss"):
            assert_parity(one_first_step, wrong)

    def test_an_even_batch_hides_a_mean_of_means(self, monkeypatch: pytest.MonkeyPatch, one_first_step: Arrays) -> None:
        monkeypatch.setattr(losses, "replica_mean", mean_of_means)
        assert_parity(one_first_step, first_step(REPLICAS, rounds=ROUNDS))


class TestNoise:
    def test_equal_noise_on_all_replicas(self, monkeypatch: pytest.MonkeyPatch, one_trained: tuple[Arrays, Arrays]) -> None:
        """The effect of equal seeds: all replicas have the latents and alpha of the first, but different real images."""
        drawn = noise.round_noise
        monkeypatch.setattr(
            noise, "round_noise", lambda seed, index, rows, *sizes: drawn(seed, index, rows._replace(first=0), *sizes)
        )
        arrays, metrics = trained(REPLICAS, rounds=ROUNDS)
        with pytest.raises(AssertionError, match="generator/000/kernel"):
            assert_parity(one_trained[0], arrays)
        with pytest.raises(AssertionError, match="6 of 6 arrays differ"):
            assert_parity(one_trained[1], metrics)
