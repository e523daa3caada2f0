"""Random numbers as functions of a key and a counter, in 32-bit integer operations: the same bits on every device.

Threefry-2x32 with 20 rounds: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", doi:10.1145/2063384.2063405.
TensorFlow's kernels, XLA and NumPy compute the same bits. TensorFlow's own generators do not: under XLA, Philox gives other
numbers than in the kernels (docs/decisions/0018).
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # of even and odd groups of four rounds
PARITY = 0x1BD11BDA

# The inverse of the error function (Giles 2010, "Approximating the erfinv function", single precision): polynomials in
# w - 2.5 for w < 5, and in √w - 3 elsewhere, where w = -log(1 - x²); the coefficient of the highest power comes first.
CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164, 0.246640727,
    1.50140941,
)  # fmt: skip
TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047, 1.00167406,
    2.83297682,
)  # fmt: skip


def threefry(key: tuple[Any, Any], counter: tuple[Any, Any], library: Any = tf.bitwise) -> tuple[Any, Any]:
    """Return two random words for a key of two words and a counter of two words: uint32 arrays that broadcast.

    `library` has `left_shift` and `right_shift` for them: tf.bitwise or numpy.
    """
    keys = (*key, key[0] ^ key[1] ^ PARITY)
    first, second = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(1, 6):
        for bits in ROTATIONS[(group - 1) % 2]:
            first = first + second
            second = first ^ (library.left_shift(second, bits) | library.right_shift(second, 32 - bits))
        first, second = first + keys[group % 3], second + keys[(group + 1) % 3] + group
    return first, second


def words(key: tuple[Any, Any], draws: int, first_row: int | tf.Tensor, rows: int | tf.Tensor, columns: int) -> tf.Tensor:
    """Return random words, uint32 [draws, rows, columns], for rows `first_row` and following.

    A word depends on the key, its draw, row and column, and on `columns`; so a part of the rows can be drawn alone.
    """
    pairs = math.ceil(columns / 2)
    row = tf.cast(first_row + tf.range(rows), tf.uint32)[tf.newaxis, :, tf.newaxis]
    pair = tf.cast(tf.range(draws * pairs), tf.uint32)
    both = threefry(key, (row, tf.reshape(pair, [draws, 1, pairs])))
    return tf.concat(both, axis=-1)[..., :columns]


def uniform(words: tf.Tensor) -> tf.Tensor:
    """Map random words to float32, uniform in [0, 1), in steps of 2⁻²⁴: exact on every device."""
    return tf.cast(tf.bitwise.right_shift(words, 8), tf.float32) * 2.0**-24


def normal(words: tf.Tensor) -> tf.Tensor:
    """Map random words to float32 with the standard normal distribution: √2 erfinv(2u - 1), u uniform in (0, 1).

    There are 2²³ values, from -5.4 to 5.4. Two devices agree to 3 units in the last place: they round logarithms and fused
    products differently.
    """
    u = (tf.cast(tf.bitwise.right_shift(words, 9), tf.float32) + 0.5) * 2.0**-23
    w = -tf.math.log(4.0 * u * (1.0 - u))
    central = w < 5.0
    t = tf.where(central, w - 2.5, tf.sqrt(w) - 3.0)
    result = tf.where(central, CENTRE[0], TAIL[0])
    for centre, tail in zip(CENTRE[1:], TAIL[1:], strict=True):
        result = tf.where(central, centre, tail) + result * t
    return result * ((2.0 * u - 1.0) * math.sqrt(2.0))
