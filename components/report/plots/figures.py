"""Images inside the page, as data URIs; large ones are shrunk."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

MAX_IMAGE_BYTES = 180_000  # ten images of this size, in base64, keep the page under 3 MB
SIDES = (1024, 768, 512, 384)  # pixels, tried in this order
SMOOTH_FROM_PIXELS = 500  # wider images fill their column without enlarged pixels


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
        """Whether the image is so small that it is enlarged with hard edges."""
        return self.width < SMOOTH_FROM_PIXELS


def figure(png: bytes, alt: str, caption: str) -> Figure:
    """Return a PNG as a figure. Raises ValueError if it is not a PNG, OSError if it cannot be decoded."""
    try:
        image: Image.Image = Image.open(io.BytesIO(png), formats=["PNG"])
    except UnidentifiedImageError:
        raise ValueError(f"{len(png)} bytes that are not a PNG image") from None
    kind = "png"
    if len(png) > MAX_IMAGE_BYTES:
        kind, png, image = "jpeg", *_shrunk(image)
    src = f"data:image/{kind};base64,{base64.b64encode(png).decode()}"
    return Figure(src, alt, caption, image.width, image.height)


def _shrunk(image: Image.Image) -> tuple[bytes, Image.Image]:
    image = image.convert("RGB")
    for side in SIDES:
        image.thumbnail((side, side))
        stream = io.BytesIO()
        image.save(stream, format="JPEG", quality=85)
        if stream.tell() <= MAX_IMAGE_BYTES:
            break
    return stream.getvalue(), image
