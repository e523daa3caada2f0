"""Noise and data order depend only on seed and round."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from components.train import noise


def test_a_batch_does_not_depend_on_earlier_calls() -> None:
    whole = noise.batch_indices(7, 50, 0, 20, 8)
    np.testing.assert_array_equal(noise.batch_indices(7, 50, 13, 3, 8), whole[13:16])


def test_each_epoch_contains_every_image_once_in_another_order() -> None:
    order = noise.batch_indices(0, 30, 0, 9, 10).reshape(3, 30)
    for epoch in order:
        assert sorted(epoch) == list(range(30))
    assert (order[0] != order[1]).any()


def test_a_batch_larger_than_the_dataset_repeats_it_evenly() -> None:
    counts = np.bincount(noise.batch_indices(0, 5, 0, 1, 15).ravel())
    np.testing.assert_array_equal(counts, [3] * 5)


def drawn(seed: int = 0, round_index: int = 0, replica: int = 0, replicas: int = 1) -> noise.RoundNoise:
    rows = noise.replica_rows(tf.constant(replica), replicas, 12)
    return noise.round_noise(seed, round_index, rows, n_critic=3, latents=5)


def test_noise_depends_on_seed_and_round_and_differs_between_steps() -> None:
    whole = [drawn(seed, index) for seed in (0, 1) for index in (0, 1)]
    for part in ("latents", "alphas"):
        steps = [step.tobytes() for each in whole for step in getattr(each, part).numpy()]
        assert len(set(steps)) == len(steps)
    np.testing.assert_array_equal(drawn(1, 1).latents, whole[3].latents)


def test_each_replica_draws_its_rows_of_the_global_noise() -> None:
    whole, parts = drawn(), [drawn(replica=index, replicas=4) for index in range(4)]
    np.testing.assert_array_equal(np.concatenate([part.latents for part in parts], axis=1), whole.latents)
    np.testing.assert_array_equal(np.concatenate([part.alphas for part in parts], axis=1), whole.alphas)


def test_the_rows_of_all_replicas_are_the_global_batch() -> None:
    whole = noise.fixed_latents(0, 12, 3)
    parts = [noise.replica_rows(tf.constant(index), 4, 12).of(whole) for index in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
