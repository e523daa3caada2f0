"""Damaged images, and the images that the default extractor is trained on."""

from __future__ import annotations

import numpy as np
import pytest

from components.evaluate.features import damage, extractor_training

IMAGES = np.random.default_rng(0).integers(0, 256, (600, 16, 16, 3)).astype(np.uint8)
ROWS = np.random.default_rng(1).permutation(np.resize(np.arange(600), 1000))


def test_repeated_images_are_damaged_as_copies_of_them_are() -> None:
    repeated = damage.Repeated(IMAGES, ROWS)
    assert (repeated.shape, len(repeated)) == ((1000, 16, 16, 3), 1000)
    one, other = (damage.damaged(images, 200, np.random.default_rng(2)) for images in (repeated, IMAGES[ROWS]))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


def test_damage_leaves_the_real_images_as_they_were() -> None:
    before = IMAGES.copy()
    images, kinds = damage.damaged(IMAGES, 400, np.random.default_rng(0))
    np.testing.assert_array_equal(IMAGES, before)
    assert np.bincount(kinds).tolist() == [20] * len(damage.KINDS)
    assert images.shape == (400, 16, 16, 3)


@pytest.mark.parametrize("count", [600, 30])
def test_a_batch_has_the_images_and_the_classes_of_its_numbers(count: int) -> None:
    """30 are few, so they are varied."""
    labels = np.arange(count) % 3
    pool = extractor_training._pool(IMAGES[:count], labels, 800)
    real, damaged = pool.real[np.arange(800)], pool.damaged
    everything = np.concatenate([real, damaged])
    numbers = np.array([1599, 0, 799, 800, 5, 0])
    np.testing.assert_array_equal(pool.images(numbers), everything[numbers])
    assert set(pool.classes[:800]) == {0, 1, 2}
    assert pool.classes[800:].tolist() == np.repeat(3 + np.arange(len(damage.KINDS)), 40).tolist()
    if count == 600:  # each real image with its label
        where = [int(np.flatnonzero((image == IMAGES).all(axis=(1, 2, 3)))[0]) for image in real[:50]]
        assert labels[where].tolist() == pool.classes[:50].tolist()
