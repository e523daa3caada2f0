"""A folder of image files: scikit-learn's handwritten digits as PNG and JPEG, a folder a class, some of them broken."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 32  # pixels, four times the original: smaller digits could become equal as JPEG


class FolderCounts(NamedTuple):
    """Counts of a folder: all files, readable images by class, and the broken files with the expected reasons."""

    read: int
    images: dict[str, int]
    broken: dict[str, str]


def write_digit_images(folder: Path, count: int, broken: bool = True) -> FolderCounts:
    """Write the first `count` digits below `folder`, as DIGIT/00012.png or .jpg; with `broken`, four more files.

    The broken files are a truncated JPEG, a truncated PNG, a file of zero bytes and a text file named .png.
    """
    digits = load_digits()
    images: dict[str, int] = {}
    for index in range(count):
        label = str(digits.target[index])
        images[label] = images.get(label, 0) + 1
        (folder / label).mkdir(parents=True, exist_ok=True)
        suffix = ("png", "jpg")[index % 2]
        (folder / label / f"{index:05d}.{suffix}").write_bytes(encoded(digits.images[index], suffix))
    reasons = write_broken_images(folder / str(digits.target[0]), digits.images[0]) if broken else {}
    return FolderCounts(count + len(reasons), images, {f"{digits.target[0]}/{name}": why for name, why in reasons.items()})


def write_broken_images(folder: Path, digit: np.ndarray) -> dict[str, str]:
    """Write four unreadable files into `folder`; return the expected reason of each."""
    files = {
        "empty.png": (b"", "empty file"),
        "text.png": (b"This is a text, whatever its name says.\n" * 20, "not an image"),
        "truncated.jpg": (encoded(digit, "jpg")[:-200], "truncated"),
        "truncated.png": (encoded(digit, "png")[:-30], "truncated"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    return {name: reason for name, (_, reason) in files.items()}


def encoded(digit: np.ndarray, suffix: str) -> bytes:
    """Return a digit, 8×8 with values 0 to 16, as the bytes of a PNG or JPEG file of 32×32 grey pixels."""
    grey = Image.fromarray(np.rint(digit * (255 / 16)).astype(np.uint8))
    stream = io.BytesIO()
    grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(stream, {"png": "PNG", "jpg": "JPEG"}[suffix], quality=95)
    return stream.getvalue()
