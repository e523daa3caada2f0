"""For CPUs: several operations that wait for memory as one loop.

TensorFlow runs one operation after the other, and each reads and writes all features. XLA compiles a function to one loop,
which keeps in registers what is in between. Its convolutions on CPUs are much slower than those of oneDNN, so only such
functions are compiled. On a TPU, XLA compiles the whole round anyway.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

Function = Callable[..., tf.Tensor]
ROWS = 8  # of ones: XLA multiplies a single row in a slow loop of its own


def fuse(function: Function) -> Function:
    """Return `function` with its value as one compiled loop and its gradients as another.

    The second computes again what it needs of the first, so nothing but the arguments is kept. All tensors that need a gradient
    must be arguments.
    """
    value = tf.function(function, jit_compile=True, autograph=False)

    @tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
    def gradients(arguments: tuple[tf.Tensor, ...], upstream: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            result = function(*arguments)
        return tape.gradient(result, arguments, upstream)

    return tf.custom_gradient(  # type: ignore[no-any-return]
        lambda *arguments: (value(*arguments), lambda upstream: gradients(arguments, upstream))
    )


@functools.cache
def compile_first() -> None:
    """Compile something while the standard error goes nowhere: TensorFlow writes two lines there, at any level of its log."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        tf.function(tf.negative, jit_compile=True, autograph=False)(tf.zeros([]))
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def by_channel(x: tf.Tensor, gain: tf.Tensor, offset: tf.Tensor) -> Any:
    """Return x·gain + offset; x [B, H, W, C], gain and offset [C] or [B, 1, 1, C].

    Their gradients are sums over pixels, for which XLA has no fast loop: here they are matrix products with ones.
    """
    return x * gain + offset, lambda upstream: (upstream * gain, _sums(upstream * x, gain), _sums(upstream, offset))


def _sums(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Return the sums of x [B, H, W, C] over the axes that `like` ([C] or [B, 1, 1, C]) lacks, in its shape."""
    channels = x.shape[-1]
    pixels = tf.reshape(x, [-1, channels] if len(like.shape) == 1 else [x.shape[0], -1, channels])
    ones = tf.ones([*pixels.shape[:-2], ROWS, pixels.shape[-2]], x.dtype)
    return tf.reshape(tf.matmul(ones, pixels)[..., 0, :], like.shape)
