"""From the bytes of an image file to square uint8 pixels, or to the reason why it cannot be decoded.

Colour profiles (ICC) are not applied: pixels are used as stored. CMYK becomes RGB by Pillow's plain formula.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import struct
import time
import warnings
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from components.common.errors import first_line
from components.ingest.config import Decoding
from components.ingest.pixels.crop import REDUCED_TO, crop
from components.ingest.pixels.near_duplicates import perceptual_hash
from components.ingest.sources.chunks import CannotReadError

# Each of these is recognised by its first bytes and decoded in this process. Pillow supports more, among them EPS, which it
# would pass to Ghostscript, and TGA, which a text file can be mistaken for.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
# Files below both limits decode in a fraction of a second whatever they contain; a deadline would slow small PNGs by a tenth.
SMALL_BYTES, SMALL_PIXELS = 1 << 16, 1 << 16
MODES = {1: "L", 3: "RGB"}
# A PNG file begins with its signature, and length and kind of its first chunk. That contains width and height, and in a plain
# file one of these: 8 bits, colour type, and three zeros, the last of which means that it is not interlaced.
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PLAIN_PNG_MODES = {b"\x08\0\0\0\0": "L", b"\x08\2\0\0\0": "RGB", b"\x08\4\0\0\0": "LA", b"\x08\6\0\0\0": "RGBA"}
# What Pillow's decoders raise on damaged files, found by flipping bits (tests/unit/ingest/pixels/test_decode.py).
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, AttributeError,
    AssertionError, NotImplementedError, RuntimeError, MemoryError, struct.error, zlib.error,
)  # fmt: skip


class Decoded(NamedTuple):
    """A decoded image: digest of its pixels (16 bytes), its square as uint8 [size, size, channels] row by row, the size
    of the source after EXIF rotation, and its perceptual hash (64 bits; 0: not computed).

    The digest is of the pixels as decoded: of the reduced ones for a JPEG that was reduced while decoding (`provenance`).
    """

    digest: bytes
    pixels: bytes
    height: int
    width: int
    perceptual_hash: int = 0


class _TooSlowError(Exception):
    pass


class _WithDeadline(io.BytesIO):
    """A file in memory whose read() fails after a deadline: it stops decoders that read in blocks, in any thread."""

    def __init__(self, content: bytes, seconds: float) -> None:
        super().__init__(content)
        self._end = time.monotonic() + seconds

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as BytesIO does. Raises _TooSlowError."""
        if time.monotonic() > self._end:
            raise _TooSlowError
        return super().read(size)


def decode(content: bytes, settings: Decoding) -> Decoded:
    """Decode, check and resize an image file. Raises CannotReadError."""
    image, height, width = open_image(content, settings)
    pixels = image.tobytes()
    digest = hashlib.blake2b(b"%b %d %d " % (image.mode.encode(), image.width, image.height), digest_size=16)
    digest.update(pixels)
    size = settings.image_size
    square = image if image.size == (size, size) else crop(image, settings, height, width)
    hash_ = perceptual_hash(square) if settings.perceptual_hashes else 0
    return Decoded(digest.digest(), pixels if square is image else square.tobytes(), height, width, hash_)


def open_image(content: bytes, settings: Decoding) -> tuple[Image.Image, int, int]:
    """Decode an image file to 8 bits a channel, mode L or RGB for 1 or 3 channels; return it with its full height and width.

    EXIF rotation is applied, transparency becomes white, 16 bits are scaled to 8, and an animation is its first frame. A
    large JPEG is returned reduced. Raises CannotReadError.
    """
    image, height, width = load_image(content, settings)
    try:
        return to_mode(image, MODES[settings.channels]), height, width
    except (ValueError, MemoryError) as error:
        raise CannotReadError("unsupported pixels", _first_line(error)) from None


def prepare_pillow(max_pixels: int) -> None:
    """Silence Pillow's warnings about odd files in this process, and set its pixel limit.

    Undecodable files are quarantined with a reason anyway. Pillow's limit also covers images inside images, as in an ICO.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    Image.MAX_IMAGE_PIXELS = max_pixels


@contextlib.contextmanager
def pillow_prepared(max_pixels: int) -> Iterator[None]:
    """Prepare Pillow in this process while the block runs, worker threads included."""
    before = Image.MAX_IMAGE_PIXELS
    try:
        with warnings.catch_warnings():
            prepare_pillow(max_pixels)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def load_image(content: bytes, settings: Decoding) -> tuple[Image.Image, int, int]:
    """Return the decoded image after EXIF rotation, in its own mode, and its full height and width. Raises CannotReadError."""
    if not content:
        raise CannotReadError("empty file", "0 bytes")
    if plain := plain_png(content, settings.max_pixels):
        return plain, plain.height, plain.width
    try:
        image = _open(content, settings)
        width, height = image.size
        if image.format == "PNG":
            for _ in _png_chunks(content):
                pass
        elif image.format == "JPEG":
            _reduce(image, settings)
        image.load()
        if image.info or image.format == "TIFF":  # where a rotation can be recorded
            before = image.size
            ImageOps.exif_transpose(image, in_place=True)
            if image.size != before:
                width, height = height, width
    except UnidentifiedImageError:
        raise CannotReadError("not an image", f"not one of {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CannotReadError("too large", _first_line(error)) from None
    except _TooSlowError:
        raise CannotReadError("too slow", f"not decoded within {settings.max_seconds:g} s") from None
    except DECODE_ERRORS as error:
        detail = _first_line(error)
        reason = "truncated" if re.search(r"truncated|end of file", detail, re.IGNORECASE) else "damaged"
        raise CannotReadError(reason, detail) from None
    return image, height, width


def plain_png(content: bytes, max_pixels: int) -> Image.Image | None:
    """Return a PNG file as `load_image` does, in half of the time; None if it is not small, whole and of pixels alone.

    With 8 bits a channel and no chunk but pixels, there is nothing to interpret: only Pillow's decoder is needed.
    """
    mode = PLAIN_PNG_MODES.get(content[24:29])
    if mode is None or not content.startswith(PNG_START):
        return None
    size = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if len(content) > SMALL_BYTES or not 0 < size[0] * size[1] <= min(SMALL_PIXELS, max_pixels):
        return None
    try:
        kinds, bodies = zip(*_png_chunks(content), strict=True)
        if set(kinds[1:-1]) == {b"IDAT"}:
            return Image.frombytes(mode, size, b"".join(bodies[1:-1]), "zip", mode)
    except DECODE_ERRORS:
        pass  # load_image will find the reason
    return None


def _open(content: bytes, settings: Decoding) -> Image.Image:
    """Open an image without decoding it; reads from one that is not small have a deadline."""
    small = len(content) <= SMALL_BYTES
    image = Image.open(io.BytesIO(content) if small else _WithDeadline(content, settings.max_seconds), formats=FORMATS)
    if image.width * image.height > settings.max_pixels:  # Pillow itself only warns up to twice its limit
        raise Image.DecompressionBombError(
            f"{image.width}×{image.height} pixels, {settings.max_pixels:,} are allowed (ingest.max_pixels)"
        )
    if not small or image.width * image.height <= SMALL_PIXELS:
        return image
    return Image.open(_WithDeadline(content, settings.max_seconds), formats=FORMATS)


def _reduce(image: Image.Image, settings: Decoding) -> None:
    """Have a large JPEG decoded at a half, a quarter or an eighth of its size, at least REDUCED_TO times the target."""
    least = REDUCED_TO * settings.image_size
    if min(image.size) >= 2 * least:
        short = min(image.size)
        # draft() uses the largest reduction whose sides are both at least as large as requested
        image.draft(None, (image.width * least // short, image.height * least // short))


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield kind and content of each chunk, and check its checksum, which Pillow's load() skips. Raises ValueError."""
    view, position, kind = memoryview(content), 8, b""
    while kind != b"IEND":
        length = int.from_bytes(view[position : position + 4], "big")
        body, position = view[position + 4 : position + 8 + length], position + 12 + length
        if position > len(content):
            raise ValueError(f"the file is truncated, {position - len(content)} bytes at least are missing")
        kind = bytes(body[:4])
        if zlib.crc32(body) != int.from_bytes(view[position - 4 : position], "big"):
            raise ValueError(f"wrong checksum of chunk {kind.decode(errors='backslashreplace')}")
        yield kind, body[4:]


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in 8 bits a channel, mode L or RGB, with transparency on white. Raises CannotReadError, ValueError."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"}):
        image = _sixteen_to_eight_bits(image)
    if image.mode in {"I", "F"}:
        raise CannotReadError("unsupported pixels", f"mode {image.mode}: what is black and white is not known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _sixteen_to_eight_bits(image: Image.Image) -> Image.Image:
    # Pillow's convert("L") would clip every value above 255 to white
    pixels = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))


def _first_line(error: BaseException) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", first_line(error))  # a memory address differs from run to run
