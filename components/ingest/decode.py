"""From the bytes of an image file to square uint8 pixels, or to the reason why that cannot be done."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Every format here is told by its first bytes and decoded in this process. Pillow knows more, among them EPS, which it
# would hand to Ghostscript, and TGA, which any text file may look like.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
MODES = {1: "L", 3: "RGB"}
RESIZE = (
    "EXIF rotation applied, transparency on white, grey as ITU-R 601-2 luma, centre square, then Pillow LANCZOS (antialiased)"
)
# What Pillow's decoders raise on damaged files; found by flipping bits (tests/unit/test_ingest_decode.py).
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, AttributeError,
    AssertionError, NotImplementedError, RuntimeError, MemoryError, struct.error, zlib.error,
)  # fmt: skip


class Decoding(NamedTuple):
    """What images are made into: their height and width, and 1 channel (grey) or 3 (RGB)."""

    image_size: int
    channels: int


class Decoded(NamedTuple):
    """A decoded image: digest of its pixels (16 bytes), its square as uint8 [size, size, channels] row by row, the size
    of the source after EXIF rotation, and its perceptual hash (64 bits; 0: not made).
    """

    digest: bytes
    pixels: bytes
    height: int
    width: int
    look: int = 0


class UnreadableImageError(Exception):
    """Why an image goes to quarantine: a short reason that never varies, and what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(reason, detail)


def decode(content: bytes, settings: Decoding) -> Decoded:
    """Decode, check and resize an image file. Raises UnreadableImageError."""
    image = decode_image(content, settings.channels)
    digest, pixels = digest_and_square(image, settings.image_size)
    return Decoded(digest, pixels, image.height, image.width)


def decode_image(content: bytes, channels: int) -> Image.Image:
    """Decode an image file to 8 bits a channel: mode L for 1 channel, RGB for 3.

    EXIF rotation is applied, transparency is laid on white, 16 bits are scaled to 8, of an animation the first frame is
    taken. Raises UnreadableImageError.
    """
    if not content:
        raise UnreadableImageError("empty file", "0 bytes")
    image = _load(content)
    try:
        return _to_mode(image, MODES[channels])
    except (ValueError, MemoryError) as error:
        raise UnreadableImageError("unsupported pixels", _first_line(error)) from None


def digest_and_square(image: Image.Image, size: int) -> tuple[bytes, bytes]:
    """Return the digest of all pixels of an image (16 bytes), and its centre square as uint8 [size, size, channels].

    Digests are equal for images of the same mode, size and pixels, and differ for all others. The square is resized
    with antialiasing, and comes as bytes, row by row.
    """
    pixels = image.tobytes()
    header = f"{image.mode} {image.width} {image.height} ".encode()
    digest = hashlib.blake2b(header + pixels, digest_size=16).digest()
    return digest, pixels if image.size == (size, size) else _centre_square(image, size).tobytes()


def _centre_square(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cropped first: resize(box=…) would let pixels from outside the square bleed into its edges.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.LANCZOS)


def silence_pillow() -> None:
    """Let Pillow's warnings about odd files go unseen; what cannot be decoded is quarantined with its reason."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


@contextlib.contextmanager
def pillow_silenced() -> Iterator[None]:
    """Silence Pillow's warnings in this process while the block runs, worker threads included."""
    with warnings.catch_warnings():
        silence_pillow()
        yield


def _load(content: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _refuse_bomb(image)
        if image.format == "PNG":
            _check_png(content)
        image.load()
        if image.info or image.format == "TIFF":  # the places where a rotation may be noted
            ImageOps.exif_transpose(image, in_place=True)
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image", f"not one of {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError("too large", _first_line(error)) from None
    except DECODE_ERRORS as error:
        detail = _first_line(error)
        reason = "truncated" if re.search(r"truncated|end of file", detail, re.IGNORECASE) else "damaged"
        raise UnreadableImageError(reason, detail) from None
    return image


def _check_png(content: bytes) -> None:
    """Check the chunks' checksums, which Pillow's load() skips. Raises ValueError."""
    view, position, kind = memoryview(content), 8, b""
    while kind != b"IEND":
        length = int.from_bytes(view[position : position + 4], "big")
        body, position = view[position + 4 : position + 8 + length], position + 12 + length
        if position > len(content):
            raise ValueError(f"the file is truncated, {position - len(content)} bytes at least are missing")
        kind = bytes(body[:4])
        if zlib.crc32(body) != int.from_bytes(view[position - 4 : position], "big"):
            raise ValueError(f"wrong checksum of chunk {kind.decode(errors='backslashreplace')}")


def _refuse_bomb(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS  # Pillow itself only warns up to twice this
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(f"{image.width}×{image.height} pixels, {limit} are allowed")


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"}):
        image = _sixteen_to_eight_bits(image)
    if image.mode in {"I", "F"}:
        raise UnreadableImageError("unsupported pixels", f"mode {image.mode}: what is black and white is not known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _sixteen_to_eight_bits(image: Image.Image) -> Image.Image:
    # Pillow's own convert("L") would clip every value above 255 to white
    pixels = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))


def _first_line(error: BaseException) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r" at 0x[0-9a-f]+", "", text)  # an address would make two runs differ
