"""The random words are the published ones, and TensorFlow's kernels, XLA and NumPy draw the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from components.train import threefry

# Key, counter and result from Random123, the authors' implementation: tests/kat_vectors, "threefry2x32 20".
PUBLISHED = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]
Draw = Callable[[Any, Any], Any]


def by_numpy(key: Any, counter: Any) -> Any:
    return np.stack(threefry.threefry(tuple(key), tuple(counter), np))


@tf.function
def by_kernels(key: Any, counter: Any) -> Any:
    return tf.stack(threefry.threefry((key[0], key[1]), (counter[0], counter[1])))


by_xla = tf.function(by_kernels.python_function, jit_compile=True)


@pytest.mark.parametrize("draw", [by_numpy, by_kernels, by_xla], ids=["numpy", "kernels", "xla"])
def test_the_words_are_the_published_ones(draw: Draw) -> None:
    key, counter, expected = (np.array(part, np.uint32).T for part in zip(*PUBLISHED, strict=True))
    np.testing.assert_array_equal(np.asarray(draw(key, counter)), expected)


word = st.integers(0, 2**32 - 1)


@given(st.lists(st.tuples(word, word, word, word), min_size=3, max_size=3))
def test_kernels_xla_and_numpy_draw_the_same_words(rows: list[tuple[int, ...]]) -> None:
    key, counter = np.array(rows, np.uint32).T.reshape(2, 2, 3)
    expected = by_numpy(key, counter)
    for draw in (by_kernels, by_xla):
        np.testing.assert_array_equal(draw(key, counter).numpy(), expected)


def ulps(one: Any, other: Any) -> Any:
    """Return the distance of float32 numbers in units in the last place."""
    return np.abs(one.astype(np.float64) - other) / np.spacing(np.abs(other))


def test_all_normals_agree_between_kernels_and_xla_and_with_scipy() -> None:
    """For all 2²³ values that a normal number can have."""
    values = np.arange(2**23, dtype=np.uint32) << 9
    kernels, xla = (tf.function(threefry.normal, jit_compile=jit)(values).numpy() for jit in (False, True))
    exact = scipy.special.ndtri((np.arange(2**23) + 0.5) / 2**23).astype(np.float32)
    assert ulps(kernels, xla).max() <= 3
    assert ulps(kernels, exact).max() <= 4
    assert (np.diff(kernels) >= -1e-6).all()
    np.testing.assert_array_equal(kernels, -kernels[::-1])


def test_uniform_numbers_are_exact_and_below_one() -> None:
    drawn = np.array([0, 255, 256, 2**32 - 1], np.uint32)
    for jit in (False, True):
        uniform = tf.function(threefry.uniform, jit_compile=jit)(drawn).numpy()
        assert uniform.tolist() == [0.0, 0.0, 2.0**-24, 1.0 - 2.0**-24]


def drawn(key: tuple[int, int], draws: int, first: int, rows: int, columns: int) -> Any:
    return threefry.words(tuple(tf.constant(each, tf.uint32) for each in key), draws, first, rows, columns)  # type: ignore[arg-type]


@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 6))
def test_rows_can_be_drawn_alone(first: int, rows: int, columns: int) -> None:
    whole = drawn((3, 4), 2, 0, 13, columns).numpy()
    np.testing.assert_array_equal(drawn((3, 4), 2, first, rows, columns), whole[:, first : first + rows])


def test_no_two_words_of_a_training_are_equal_by_construction() -> None:
    """All keys, draws, rows and columns give other counters: 64-bit pairs of the words are distinct."""
    pairs = [drawn((seed, index), 3, 0, 50, 2).numpy().reshape(-1, 2) for seed in range(3) for index in range(20)]
    assert len(np.unique(np.concatenate(pairs), axis=0)) == 3 * 20 * 3 * 50


def test_numbers_are_uniform_normal_and_independent() -> None:
    """Kolmogorov-Smirnov, and correlations between neighbouring draws, rows, columns and rounds."""
    words = tf.stack([drawn((0, index), 2, 0, 512, 64) for index in range(2)])
    uniform, normal = threefry.uniform(words).numpy(), threefry.normal(words).numpy()
    assert scipy.stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-3
    assert scipy.stats.kstest(normal.ravel(), "norm").pvalue > 1e-3
    for axis in range(4):
        one, next_one = np.delete(normal, 0, axis), np.delete(normal, -1, axis)
        correlation = np.corrcoef(one.ravel(), next_one.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(one.size), f"axis {axis}"
