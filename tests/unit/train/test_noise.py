"""Noise and data order: functions of (seed, round) and of nothing else."""

from __future__ import annotations

import numpy as np

from components.train import noise


def test_any_batch_can_be_named_without_the_ones_before() -> None:
    whole = noise.batch_indices(7, 50, 0, 20, 8)
    np.testing.assert_array_equal(noise.batch_indices(7, 50, 13, 3, 8), whole[13:16])


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    order = noise.batch_indices(0, 30, 0, 9, 10).reshape(3, 30)
    for epoch in order:
        assert sorted(epoch) == list(range(30))
    assert (order[0] != order[1]).any()


def test_a_batch_larger_than_the_dataset_repeats_it_evenly() -> None:
    counts = np.bincount(noise.batch_indices(0, 5, 0, 1, 15).ravel())
    np.testing.assert_array_equal(counts, [3] * 5)


def test_seed_round_and_critic_step_each_change_the_noise() -> None:
    def latents(seed: int, round_index: int, critic_index: int) -> bytes:
        drawn = noise.critic_noise(noise.round_seed(seed, round_index), critic_index, 4, 8)
        return drawn.latents.numpy().tobytes() + drawn.alpha.numpy().tobytes()

    kinds = {latents(s, r, c) for s in (0, 1) for r in (0, 1) for c in (0, 1)}
    assert len(kinds) == 8
    assert latents(1, 1, 1) == latents(1, 1, 1)


def test_the_generator_does_not_get_the_latents_of_a_critic_step() -> None:
    seed = noise.round_seed(0, 0)
    own = noise.generator_latents(seed, 3, 4, 8).numpy()
    for index in range(3):
        assert (own != noise.critic_noise(seed, index, 4, 8).latents.numpy()).any()


def test_replica_rows_together_are_the_whole() -> None:
    whole = noise.fixed_latents(0, 12, 3)
    parts = [noise.replica_rows(whole, np.int32(index), 4).numpy() for index in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.numpy())
