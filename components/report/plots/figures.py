"""Images inside the page: PNG files as data URIs, made smaller where they would make the page heavy."""

from __future__ import annotations

import base64
import io
import struct
from dataclasses import dataclass

from PIL import Image

MAX_IMAGE_BYTES = 180_000  # ten images of this size, in base64, keep the page under 3 MB
SIDES = (1024, 768, 512, 384)  # pixels, tried in this order
SMOOTH_FROM_PIXELS = 500  # a grid that is as wide as its place looks better smoothed than with hard pixels


@dataclass(frozen=True)
class Figure:
    """One image of the page; width and height are those of the encoded image, in pixels."""

    src: str
    alt: str
    caption: str
    width: int
    height: int

    @property
    def pixelated(self) -> bool:
        """Whether the image is so small that it is shown with hard pixels."""
        return self.width < SMOOTH_FROM_PIXELS


def figure(png: bytes, alt: str, caption: str) -> Figure:
    """Return a PNG as a figure. Raises ValueError when it is no PNG, OSError when it cannot be decoded."""
    width, height = png_size(png)
    if len(png) <= MAX_IMAGE_BYTES:
        return Figure(_data_uri("image/png", png), alt, caption, width, height)
    jpeg, width, height = _shrunk(png)
    return Figure(_data_uri("image/jpeg", jpeg), alt, caption, width, height)


def png_size(png: bytes) -> tuple[int, int]:
    """Return width and height in pixels from a PNG's header. Raises ValueError when it is no PNG."""
    if len(png) < 24 or png[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"{len(png)} bytes that are no PNG image")
    width, height = struct.unpack(">II", png[16:24])
    return int(width), int(height)


def _shrunk(png: bytes) -> tuple[bytes, int, int]:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for side in SIDES:
        image.thumbnail((side, side))
        stream = io.BytesIO()
        image.save(stream, format="JPEG", quality=85)
        if stream.tell() <= MAX_IMAGE_BYTES:
            break
    return stream.getvalue(), image.width, image.height


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
