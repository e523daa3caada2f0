"""A folder of many kinds of odd and broken image files, each with the expected outcome."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

MAX_BYTES, MAX_PIXELS = 1_000_000, 1_000_000
KEPT = "kept"
Pixels = npt.NDArray[np.uint8]


class OddFile(NamedTuple):
    """One file: name as bytes, a function that writes it, and its outcome: `kept`, `= NAME` (equal pixels), or a reason."""

    name: bytes
    make: Callable[[bytes], None]
    outcome: str

    @property
    def id(self) -> str:
        """The id that ingest gives the file."""
        return self.name.decode(errors="backslashreplace")


def photo(seed: int, size: tuple[int, int] = (40, 30), bands: int = 3) -> Pixels:
    """Return an image that is unique to its seed: uint8 [height, width, bands] of soft colours."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, bands), np.uint8)
    image = Image.fromarray(small if bands > 1 else small[..., 0]).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size[1], size[0], bands)


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Return an image that is unique to its seed, in one of Pillow's modes."""
    return Image.fromarray(photo(seed, size)).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def file_with(content: bytes) -> Callable[[bytes], None]:
    """Return a function that writes a file with this content."""

    def write(path: bytes) -> None:
        with open(path, "wb") as file:
            file.write(content)

    return write


def sparse(size: int) -> Callable[[bytes], None]:
    """Return a function that writes a sparse file of zeros."""

    def write(path: bytes) -> None:
        with open(path, "wb") as file:
            file.truncate(size)

    return write


def listening(path: bytes) -> None:
    """Create a socket in place of a file."""
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(os.path.dirname(path))  # the path of a socket is limited to 107 bytes
        try:
            server.bind(os.path.basename(path))
        finally:
            os.chdir(before)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes, *extra: bytes) -> bytes:
    """Return a grey PNG file whose header has this size, with any rows."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def turned(image: Image.Image, orientation: int, kind: str = "PNG") -> bytes:
    """Return a file with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif)


def sixteen_bits(seed: int) -> Image.Image:
    """Return a grey image of 16 bits whose upper bytes are those of an 8-bit one."""
    return Image.fromarray(photo(seed, bands=1)[..., 0].astype(np.uint16) * 257)


def frames(seed: int, mode: str = "RGB") -> list[Image.Image]:
    """Return three different frames."""
    return [picture(seed + index, mode) for index in range(3)]


def decodable_files() -> list[OddFile]:
    """Return odd files that can be decoded."""
    rgb, animation = [picture(seed) for seed in range(60)], frames(200)
    palette = rgb[4].quantize(64)
    makers = {
        "grey.jpg": encoded(picture(0, "L"), "JPEG"),
        "colour.jpg": encoded(rgb[1], "JPEG"),
        "progressive.jpg": encoded(rgb[2], "JPEG", progressive=True),
        "cmyk.jpg": encoded(picture(3, "CMYK"), "JPEG"),
        "adobe_ycck.tif": encoded(picture(31, "CMYK"), "TIFF"),
        "palette.png": encoded(palette, "PNG"),
        "palette_with_transparency.png": encoded(rgb[5].quantize(32), "PNG", transparency=3),
        "one_bit.png": encoded(picture(6, "1"), "PNG"),
        "two_bits.png": encoded(rgb[7].quantize(4), "PNG", bits=2),
        "four_bits.png": encoded(rgb[8].quantize(16), "PNG", bits=4),
        "sixteen_bits.png": encoded(sixteen_bits(9), "PNG"),
        "sixteen_bits.tif": encoded(sixteen_bits(10), "TIFF"),
        "grey_and_alpha.png": encoded(picture(11, "LA"), "PNG"),
        "alpha.png": encoded(picture(12, "RGBA"), "PNG"),
        "interlaced.png": interlaced(13),
        "lossy.webp": encoded(rgb[14], "WEBP", quality=80),
        "lossless.webp": encoded(rgb[15], "WEBP", lossless=True),
        "moving.webp": encoded(animation[0], "WEBP", save_all=True, append_images=animation[1:], lossless=True),
        "moving.gif": encoded(frames(16, "P")[0], "GIF", save_all=True, append_images=frames(16, "P")[1:]),
        "pages.tif": encoded(rgb[17], "TIFF", save_all=True, append_images=rgb[18:20]),
        "packed.tif": encoded(rgb[20], "TIFF", compression="tiff_lzw"),
        "windows.bmp": encoded(rgb[21], "BMP"),
        "windows_palette.bmp": encoded(rgb[22].quantize(256), "BMP"),
        "symbol.ico": encoded(picture(23, size=(64, 64)), "ICO", sizes=[(64, 64)]),
        "film.avif": encoded(rgb[24], "AVIF"),
        "wavelets.jp2": encoded(rgb[25], "JPEG2000"),
        "text.ppm": b"P3 2 2 255 " + b" ".join(b"%d" % value for value in range(12)),
        "one_pixel.png": encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"),
        "one_row.png": encoded(picture(26, size=(9000, 1)), "PNG"),
        "one_column.png": encoded(picture(27, size=(1, 9000)), "PNG"),
        "wrong_name.png": encoded(rgb[28], "JPEG"),
        "no_extension": encoded(rgb[29], "PNG"),
        "much_text_after.png": encoded(rgb[30], "PNG") + b"\n" * 5000,
        "profile.jpg": encoded(rgb[32], "JPEG", icc_profile=b"\0" * 500),
        "comment.jpg": encoded(rgb[33], "JPEG", comment=b"\xff\xfe\x00 not UTF-8"),
        **{f"turned_{orientation}.jpg": turned(rgb[40 + orientation], orientation, "JPEG") for orientation in range(1, 9)},
    }
    odd = [OddFile(name.encode(), file_with(content), KEPT) for name, content in makers.items()]
    names = [b"caf\xe9.png", "日本語 😀.png".encode(), b"new\nline.png", b"-rf *.png", b"q'\"uote.png", b"x" * 240 + b".png"]
    return odd + [OddFile(name, file_with(encoded(picture(300 + at), "PNG")), KEPT) for at, name in enumerate(names)]


def interlaced(seed: int) -> bytes:
    """Return a PNG of the seven passes of Adam7; Pillow does not write such files."""
    grey = photo(seed, (16, 16), 1)[..., 0]
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(b"\0" + row.tobytes() for top, left, down, right in passes for row in grey[top::down, left::right])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def equal_files() -> list[OddFile]:
    """Return files with the pixels of another file."""
    first, same = picture(100), "= equal_a.png"
    upright = picture(101)
    return [
        OddFile(b"equal_a.png", file_with(encoded(first, "PNG")), KEPT),
        OddFile(b"equal_b.bmp", file_with(encoded(first, "BMP")), same),
        OddFile(b"equal_c.webp", file_with(encoded(first, "WEBP", lossless=True)), same),
        OddFile(b"equal_d.png", file_with(encoded(first, "PNG", compress_level=0)), same),
        OddFile(b"equal_e.png", lambda path: os.symlink(b"equal_a.png", path), same),
        OddFile(b"upright_a.png", file_with(encoded(upright, "PNG")), KEPT),
        OddFile(b"upright_b.png", file_with(turned(upright.transpose(Image.Transpose.ROTATE_90), 6)), "= upright_a.png"),
    ]


def broken_files() -> list[OddFile]:
    """Return files that cannot be decoded, and the expected reasons."""
    whole_png, whole_jpeg = encoded(picture(110, size=(200, 200)), "PNG"), encoded(picture(111, size=(200, 200)), "JPEG")
    flipped = bytearray(whole_png)
    flipped[flipped.index(b"IDAT") + 30] ^= 4
    bomb_text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 80_000_000))
    contents = {
        "nothing.jpg": (b"", "empty file"),
        "text.jpg": (b"this is no image\n" * 100, "not an image"),
        "page.png": (b"<!doctype html><title>404 Not Found</title>", "not an image"),
        "zeros.png": (bytes(4096), "not an image"),
        "signature_only.png": (whole_png[:8], "not an image"),
        "header_only.png": (whole_png[:33], "not an image"),
        "half.png": (whole_png[: len(whole_png) // 2], "truncated"),
        "last_byte_missing.png": (whole_png[:-1], "truncated"),
        "half.jpg": (whole_jpeg[: len(whole_jpeg) // 2], "truncated"),
        "start_only.jpg": (whole_jpeg[:3], "not an image"),
        "half.webp": (encoded(picture(112, size=(200, 200)), "WEBP")[:300], "damaged"),
        "half.tif": (encoded(picture(113, size=(200, 200)), "TIFF")[:-3000], "truncated"),
        "half.bmp": (encoded(picture(114, size=(200, 200)), "BMP")[:3000], "truncated"),
        "flipped_bit.png": (bytes(flipped), "damaged"),
        "pixel_bomb.png": (png(60_000, 60_000, b"\0"), "too large"),
        "just_too_many.png": (encoded(Image.new("L", (1001, 1000)), "PNG"), "too large"),
        "text_bomb.png": (png(4, 4, bytes(20), bomb_text), "damaged"),
        "too_few_rows.png": (png(100, 100, bytes(500)), "truncated"),
        "no_pixels.png": (png(0, 10, b""), "not an image"),
        "floats.tif": (encoded(Image.new("F", (9, 9), 0.5), "TIFF"), "unsupported pixels"),
        "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not an image"),
        "vectors.svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "not an image"),
        "film.mp4": (b"\0\0\0\x20ftypisom" + bytes(100), "not an image"),
        "many_bytes.bmp": (encoded(picture(115, size=(600, 600)), "BMP"), "too large"),
    }
    odd = [OddFile(name.encode(), file_with(content), reason) for name, (content, reason) in contents.items()]
    return [
        *odd,
        OddFile(b"huge.jpg", sparse(2 << 30), "too large"),
        OddFile(b"gone.png", lambda path: os.symlink(b"nowhere", path), "unreadable file"),
        OddFile(b"circle.png", lambda path: os.symlink(b"circle.png", path), "unreadable file"),
        OddFile(b"pipe.png", lambda path: os.mkfifo(path), "not a regular file"),
        OddFile(b"socket.png", listening, "not a regular file"),
        OddFile(b"device.png", lambda path: os.symlink(b"/dev/zero", path), "not a regular file"),
    ]


def write_torture_folder(folder: Path, good: int = 2000) -> list[OddFile]:
    """Write all odd files and `good` plain ones (good/00000.png …); return the odd ones.

    There are also circular links between folders, whose targets are read once.
    """
    (folder / "good").mkdir(parents=True)
    for index in range(good):
        Image.fromarray(photo(10_000 + index, (24, 24))).save(folder / "good" / f"{index:05d}.png")
    odd = [*decodable_files(), *equal_files(), *broken_files()]
    for file in odd:
        file.make(os.path.join(os.fsencode(folder), file.name))
    os.symlink(folder, folder / "loop", target_is_directory=True)
    os.symlink("..", folder / "good" / "up", target_is_directory=True)
    (folder / "folder.png").mkdir()
    (folder / ".hidden.png").write_bytes(b"hidden")
    return odd
