"""From a decoded image to the square image that is stored in the dataset."""

from __future__ import annotations

import math

from PIL import Image

from components.ingest.config import Decoding

REDUCED_TO = 3  # times the target size: below that, reducing a JPEG while decoding would be visible (docs/ingestion.md)
FILTERS = {"lanczos": Image.Resampling.LANCZOS, "area": Image.Resampling.BOX}
PADDING = "black"


def crop(image: Image.Image, settings: Decoding, height: int, width: int) -> Image.Image:
    """Return the image, mode L or RGB, as a square of settings.image_size: its centre, or the whole of it, padded.

    `height` and `width` are those of the full image; `image` may be smaller by an integer factor, rounded up to pixels.
    """
    size, filter_ = settings.image_size, FILTERS[settings.resize]
    factor = round(width / image.width)
    if settings.fit == "pad":
        return _padded(image, size, filter_, (width / factor, height / factor))
    side = min(width, height)
    left, top = (width - side) // 2 / factor, (height - side) // 2 / factor
    right, bottom = min(left + side / factor, image.width), min(top + side / factor, image.height)
    # Cropped first: resize(box=…) alone would let pixels from outside the square bleed into its edges.
    corner = math.floor(left), math.floor(top)
    if image.width != image.height:
        image = image.crop((*corner, math.ceil(right), math.ceil(bottom)))
    box = left - corner[0], top - corner[1], right - corner[0], bottom - corner[1]
    return image.resize((size, size), filter_, box=box)


def _padded(image: Image.Image, size: int, filter_: Image.Resampling, box: tuple[float, float]) -> Image.Image:
    scale = size / max(box)
    width, height = (max(1, round(side * scale)) for side in box)
    canvas = Image.new(image.mode, (size, size), PADDING)
    canvas.paste(image.resize((width, height), filter_, box=(0, 0, *box)), ((size - width) // 2, (size - height) // 2))
    return canvas


def provenance(settings: Decoding) -> str:
    """Return how images are prepared, in words, for the manifest of the dataset and the report."""
    names = {"lanczos": "Pillow LANCZOS (antialiased)", "area": "mean over areas (Pillow BOX)"}
    fit = "centre square" if settings.fit == "crop" else f"the whole image, padded with {PADDING} to a square"
    least = REDUCED_TO * settings.image_size
    return (
        f"EXIF rotation applied, colour profiles ignored, transparency on white, grey as ITU-R 601-2 luma, {fit}, then "
        f"{names[settings.resize]}; a JPEG whose shorter side has at least {2 * least} pixels is decoded at a half, a quarter "
        f"or an eighth of its size, to at least {least} pixels"
    )
