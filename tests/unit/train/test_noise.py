"""Noise and data order depend only on seed and round."""

from __future__ import annotations

import numpy as np

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


def test_noise_depends_on_seed_round_and_critic_step() -> None:
    def latents(seed: int, round_index: int, critic_index: int) -> bytes:
        drawn = noise.critic_noise(noise.round_seed(seed, round_index), critic_index, 4, 8)
        return drawn.latents.numpy().tobytes() + drawn.alpha.numpy().tobytes()

    kinds = {latents(s, r, c) for s in (0, 1) for r in (0, 1) for c in (0, 1)}
    assert len(kinds) == 8
    assert latents(1, 1, 1) == latents(1, 1, 1)


def test_the_generator_step_has_other_latents_than_the_critic_steps() -> None:
    seed = noise.round_seed(0, 0)
    own = noise.generator_latents(seed, 3, 4, 8).numpy()
    for index in range(3):
        assert (own != noise.critic_noise(seed, index, 4, 8).latents.numpy()).any()


def test_the_rows_of_all_replicas_are_the_global_batch() -> None:
    whole = noise.fixed_latents(0, 12, 3)
    parts = [noise.replica_rows(whole, np.int32(index), 4).numpy() for index in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.numpy())
