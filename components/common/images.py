"""Image grids and PNG files, with Pillow and NumPy only."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.common.artifacts import write_bytes

WHITE = 255  # around each image, so that the border of an image on black remains visible


def grid(images: npt.NDArray[np.uint8], columns: int, scale: int = 1) -> npt.NDArray[np.uint8]:
    """Lay images out in rows of `columns`, left to right and top to bottom.

    images: uint8 [N, H, W, C] with N ≥ 1. Each pixel becomes `scale` × `scale` pixels; a white line surrounds every
    image, and unused cells are white. Returns uint8 [H', W', C].
    """
    scaled = images.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = scaled.shape
    rows = -(-count // columns)
    framed = np.full((rows * columns, height + 1, width + 1, channels), WHITE, np.uint8)
    framed[:count, 1:, 1:] = scaled
    laid_out = framed.reshape(rows, columns, *framed.shape[1:]).swapaxes(1, 2).reshape(rows * (height + 1), -1, channels)
    return np.pad(laid_out, ((0, 1), (0, 1), (0, 0)), constant_values=WHITE)


def cells(laid_out: npt.NDArray[np.uint8], image_size: int, columns: int, scale: int) -> npt.NDArray[np.uint8]:
    """Return the images of a grid that `grid` made, unused white cells included: uint8 [N, H, W, C].

    Raises ValueError when the array is not such a grid.
    """
    pitch = image_size * scale + 1
    rows, rest = divmod(laid_out.shape[0] - 1, pitch)
    if laid_out.ndim != 3 or rest or laid_out.shape[1] != columns * pitch + 1:
        raise ValueError(
            f"{list(laid_out.shape)} is not a grid of {columns} columns of {image_size}×{image_size} pixels × {scale}"
        )
    inner = laid_out[1:, 1:].reshape(rows, pitch, columns, pitch, -1)
    images = inner[:, : pitch - 1 : scale, :, : pitch - 1 : scale]
    return images.swapaxes(1, 2).reshape(rows * columns, image_size, image_size, -1)


def viewable_scale(image_size: int) -> int:
    """Return the smallest whole scale that makes an image at least 48 pixels high: 6 for 8 pixels, 2 for 28."""
    return max(1, -(-48 // image_size))


def png_bytes(array: npt.NDArray[np.uint8]) -> bytes:
    """Encode an image, uint8 [H, W, C] with C = 1 (grey) or 3 (RGB), as PNG; the same image gives the same bytes."""
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def read_png(content: bytes) -> npt.NDArray[np.uint8]:
    """Return the image, uint8 [H, W, C], that png_bytes encoded."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        array = np.asarray(image)
    return array if array.ndim == 3 else array[:, :, None]


def write_png(file: Path, array: npt.NDArray[np.uint8]) -> None:
    """Write an image, uint8 [H, W, C] with C = 1 (grey) or 3 (RGB), as a PNG file. Raises ArtifactError."""
    write_bytes(file, png_bytes(array))
