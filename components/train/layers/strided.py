"""Convolutions of 4×4 taps with stride 2, and their gradients as a CPU computes them fastest.

Such a convolution, its gradient for the images and its gradient for the kernel are each linear in two of three arrays: the
images [B, H, W, I], the kernel [4, 4, I, O], and the upstream gradient [B, H/2, W/2, O]. So the gradients of each one are the
other two, to any order. oneDNN computes most of them well. It is slow at gradients for images of few channels, and at
gradients for the kernel in bfloat16 (docs/performance.md).
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from components.train.layers.fused import fuse

FEW_CHANNELS = 3  # of images, for which a matrix product is faster
FEW_PIXELS = {tf.bfloat16: 16, tf.float32: 8}  # height of images up to which the kernel's gradient is faster as a convolution
OF_IMAGES, OF_KERNEL = "gradient_of_images", "gradient_of_kernel"  # scopes of operations
# The taps that meet the first of the two rows of a pixel, and the second: (tap, distance of its pixel). So do columns.
MEETING = (((1, 0), (3, -1)), ((2, 0), (0, 1)))


class StridedConv(keras.layers.Conv2D):  # type: ignore[misc]
    """Conv2D(channels, 4, strides=2, padding="same") with the gradients of this module."""

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Return the convolution, without the bias."""
        return _convolution(inputs, tf.convert_to_tensor(kernel))


class UpConv(keras.layers.Layer):  # type: ignore[misc]
    """Nearest-neighbour up-sampling by 2, a 3×3 convolution, minus its mean over channels: [B, H, W, I] to [B, 2H, 2W, O].

    Computes the same as UpSampling2D(2) and Conv2D(O, 3, padding="same", use_bias=False) with the same kernel, minus the mean
    of each pixel. Taps that meet the same pixel of the small image are summed first, which takes 16 products per pixel and pair
    of channels instead of 36. The up-sampled image is never stored. LayerNorm, which follows everywhere, subtracts the mean
    anyway; here it is subtracted from the kernel, which is much smaller than the image (docs/decisions/0008). `Normalised` adds
    the bias.
    """

    def __init__(self, channels: int, kernel_initializer: Any, on_cpu: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self.channels, self.kernel_initializer, self.on_cpu = channels, kernel_initializer, on_cpu
        self.sum_taps = fuse(_summed_taps) if on_cpu else _summed_taps

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create a 3×3 kernel."""
        self.kernel = self.add_weight(
            shape=(3, 3, input_shape[-1], self.channels), initializer=self.kernel_initializer, name="kernel", autocast=False
        )

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Return the convolved large image."""
        summed = tf.cast(self.sum_taps(tf.convert_to_tensor(self.kernel)), self.compute_dtype)
        _, height, width, _ = images.shape
        if self.on_cpu:
            return _of_images(images, summed, 2 * height)
        shape = [tf.shape(images)[0], 2 * height, 2 * width, self.channels]
        return tf.nn.conv2d_transpose(images, summed, shape, 2, "SAME")

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return [B, 2H, 2W, O]."""
        batch, height, width, _ = input_shape
        return (batch, 2 * height, 2 * width, self.channels)


def _summed_taps(kernel: tf.Tensor) -> tf.Tensor:
    """Return the kernel [4, 4, O, I] of the transposed convolution of a kernel [3, 3, I, O], minus its mean over O.

    The large image repeats each pixel of the small one twice, so several of the 3 taps meet the same pixel.
    """
    taps = kernel - tf.reduce_mean(kernel, -1, keepdims=True)
    for axis in range(2):
        first, second, third = tf.unstack(taps, axis=axis)
        taps = tf.stack([third, second + third, first + second, first], axis)
    return tf.transpose(taps, [0, 1, 3, 2])


def _convolution(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Return the convolution [B, H/2, W/2, O]."""
    size = images.shape[1]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def of(images: tf.Tensor, kernel: tf.Tensor) -> Any:
        value = tf.nn.conv2d(images, kernel, 2, "SAME")
        return value, lambda upstream: (_of_images(upstream, kernel, size), _of_kernel(images, upstream))

    return of(images, kernel)


def _of_images(upstream: tf.Tensor, kernel: tf.Tensor, size: int) -> tf.Tensor:
    """Return the gradient for images of `size` pixels: [B, H, W, I]."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def of(upstream: tf.Tensor, kernel: tf.Tensor) -> Any:
        with tf.name_scope(OF_IMAGES):
            value = _image_gradient(upstream, kernel, size)
        return value, lambda second: (_convolution(second, kernel), _of_kernel(second, upstream))

    return of(upstream, kernel)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _of_kernel(images: tf.Tensor, upstream: tf.Tensor) -> Any:
    """Return the gradient for the kernel, [4, 4, I, O]."""
    size = images.shape[1]
    with tf.name_scope(OF_KERNEL):
        value = _kernel_gradient(images, upstream)
    return value, lambda second: (_of_images(upstream, second, size), _convolution(images, second))


def _image_gradient(upstream: tf.Tensor, kernel: tf.Tensor, size: int) -> tf.Tensor:
    batch, (_, height, width, filters), channels = tf.shape(upstream)[0], upstream.shape, kernel.shape[2]
    if channels > FEW_CHANNELS:
        return tf.nn.conv2d_transpose(upstream, kernel, [batch, size, size, channels], 2, "SAME")
    taps = tf.matmul(tf.reshape(upstream, [-1, filters]), tf.reshape(kernel, [-1, filters]), transpose_b=True)
    return _overlapped(tf.reshape(taps, [-1, height, width, 4, 4, channels]))[:, :size, :size]


def _kernel_gradient(images: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    (size, channels), (small, filters) = images.shape[2:], upstream.shape[2:]
    if size > FEW_PIXELS.get(images.dtype, 0):
        return tf.raw_ops.Conv2DBackpropFilter(
            input=images, filter_sizes=[4, 4, channels, filters], out_backprop=upstream, strides=[1, 2, 2, 1], padding="SAME"
        )
    # A convolution with the examples in the place of the channels, and the channels in that of the examples.
    padded = 2 * small + 2 - size
    edges = [padded // 2, padded - padded // 2]
    examples_last, examples_third = tf.transpose(images, [3, 1, 2, 0]), tf.transpose(upstream, [1, 2, 0, 3])
    taps = tf.nn.conv2d(examples_last, examples_third, 1, [[0, 0], edges, edges, [0, 0]], dilations=2)
    return tf.transpose(taps, [1, 2, 0, 3])


@tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
def _overlapped(taps: tf.Tensor) -> tf.Tensor:
    """Add the taps of each pixel, [B, H, W, 4, 4, I], to the image [B, 2H, 2W, I], in which those of neighbours overlap."""
    _, height, width, _, _, channels = taps.shape
    padded = tf.pad(tf.cast(taps, tf.float32), [[0, 0], [1, 1], [1, 1], [0, 0], [0, 0], [0, 0]])
    pixels = []
    for rows in MEETING:
        for columns in MEETING:
            places = [(row, down, column, right) for row, down in rows for column, right in columns]
            pixels.append(tf.add_n([
                padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width, row, column]
                for row, down, column, right in places
            ]))  # fmt: skip
    interleaved = tf.reshape(tf.stack(pixels, 3), [-1, height, width, 2, 2, channels])
    image = tf.reshape(tf.transpose(interleaved, [0, 1, 3, 2, 4, 5]), [-1, 2 * height, 2 * width, channels])
    return tf.cast(image, taps.dtype)
