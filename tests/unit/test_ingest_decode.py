"""Decoding: every kind of file that an image folder holds, and what is said of those that cannot be read."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from components.ingest.decode import (
    FORMATS,
    UnreadableImageError,
    decode_image,
    digest_and_square,
    pillow_silenced,
)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(mode: str = "L", size: tuple[int, int] = (16, 16), seed: int = 0) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    shape = (size[1], size[0], bands)[: 2 if bands == 1 else 3]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def reason_of(content: bytes, channels: int = 1) -> tuple[str, str]:
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(content, channels)
    return caught.value.reason, caught.value.detail


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_lossless_formats_give_the_same_pixels(kind: str) -> None:
    image = noise()
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_image(file_of(image.convert("RGB") if kind == "WEBP" else image, kind, **options), 1)
    assert decoded.mode == "L"
    assert decoded.tobytes() == image.tobytes()


def test_jpeg_in_grey_colour_and_cmyk() -> None:
    for mode in ("L", "RGB", "CMYK"):
        image = Image.new(mode, (16, 16), {"L": 90, "RGB": (90, 90, 90), "CMYK": (0, 0, 0, 165)}[mode])
        pixels = np.asarray(decode_image(file_of(image, "JPEG", quality=95), 3)).astype(int)
        assert pixels.shape == (16, 16, 3)
        assert np.abs(pixels - 90).max() <= 2


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    decoded = decode_image(file_of(Image.fromarray(levels)), 1)
    assert np.asarray(decoded).tolist() == [[0, 1, 128, 255]]


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (1, 2), (0, 0, 0, 0))
    image.putpixel((0, 1), (0, 0, 0, 255))
    assert np.asarray(decode_image(file_of(image), 1)).ravel().tolist() == [255, 0]
    assert np.asarray(decode_image(file_of(image.convert("LA")), 1)).ravel().tolist() == [255, 0]


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30] + [0] * 762)
    image.putdata([0, 1])
    decoded = decode_image(file_of(image, transparency=0), 3)
    assert [decoded.getpixel((0, 0)), decoded.getpixel((1, 0))] == [(255, 255, 255), (10, 20, 30)]


def test_exif_rotation_is_applied() -> None:
    image = noise("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to show"
    decoded = decode_image(file_of(image, exif=exif), 3)
    assert decoded.size == (2, 4)
    assert decoded.tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("L", (4, 4), level) for level in (10, 200)]
    content = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert set(decode_image(content, 1).tobytes()) == {10}


def test_reasons() -> None:
    png, jpeg = file_of(noise(size=(64, 64))), file_of(noise(size=(64, 64)), "JPEG")
    assert reason_of(b"")[0] == "empty file"
    assert reason_of(b"no image at all\n" * 9)[0] == "not an image"
    assert reason_of(b"\0" * 500)[0] == "not an image"
    assert reason_of(png[: len(png) // 2])[0] == "truncated"
    assert reason_of(png[:-6])[0] == "truncated"
    assert reason_of(jpeg[: len(jpeg) // 2])[0] == "truncated"
    assert reason_of(file_of(Image.new("F", (4, 4)), "TIFF")) == (
        "unsupported pixels", "mode F: what is black and white is not known",
    )  # fmt: skip


def test_a_flipped_bit_in_a_png_is_found_by_its_checksum() -> None:
    content = bytearray(file_of(noise()))
    content[content.index(b"IDAT") + 20] ^= 1
    assert reason_of(bytes(content)) == ("damaged", "wrong checksum of chunk IDAT")


def test_postscript_is_never_handed_to_ghostscript() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    assert reason_of(postscript)[0] == "not an image"


def test_an_image_with_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode_image(file_of(Image.new("L", (31, 32))), 1).size == (31, 32)
    for side in (32, 100):  # Pillow warns of the first and refuses the second
        with pillow_silenced():
            assert reason_of(file_of(Image.new("L", (side, side))))[0] == "too large"
        assert reason_of(file_of(Image.new("L", (side, side))))[0] == "too large"


def test_a_reason_holds_no_address_and_is_one_line() -> None:
    for content in (b"x", file_of(noise())[:40], b"II*\0" + b"\xff" * 60):
        with pillow_silenced():
            detail = reason_of(content)[1]
        assert "0x" not in detail
        assert "\n" not in detail


FILES = [file_of(noise("RGB"), kind) for kind in FORMATS if kind != "ICO"]
REASONS = {"empty file", "not an image", "truncated", "damaged", "too large", "unsupported pixels"}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FILES), st.data())
def test_whatever_is_damaged_it_is_decoded_or_refused(content: bytes, data: st.DataObject) -> None:
    damaged = bytearray(content)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        damaged[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    with pillow_silenced():
        try:
            image = decode_image(bytes(damaged[:end]), 3)
        except UnreadableImageError as error:
            assert error.reason in REASONS  # noqa: PT017  # an image that still decodes is right too
        else:
            assert len(digest_and_square(image, 8)[1]) == 8 * 8 * 3


def test_warnings_of_pillow_do_not_leak() -> None:
    def noisy() -> None:
        exec(compile("import warnings; warnings.warn('odd file')", "f", "exec"), {"__name__": "PIL.TiffImagePlugin"})

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pillow_silenced():
            noisy()
            warnings.warn("ours", stacklevel=1)
        assert [str(entry.message) for entry in seen] == ["ours"]
        noisy()
        assert len(seen) == 2


def test_the_digest_tells_pixels_sizes_and_modes_apart() -> None:
    image = noise()
    png, bmp = (digest_and_square(decode_image(file_of(image, kind), 1), 8)[0] for kind in ("PNG", "BMP"))
    assert png == bmp, "the same pixels in another file format are the same image"
    changed = image.copy()
    changed.putpixel((3, 3), (changed.getpixel((3, 3)) + 1) % 256)
    reshaped = Image.frombytes("L", (8, 32), image.tobytes())
    others = {digest_and_square(other, 8)[0] for other in (changed, reshaped, image.convert("RGB"))}
    assert len(others | {png}) == 4


def test_resizing_is_antialiased() -> None:
    # Stripes of one pixel: decimating without a filter gives all black or all white, averaging gives grey.
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32)))
    square = np.frombuffer(digest_and_square(stripes, 8)[1], np.uint8)
    assert np.abs(square.astype(int) - 127).max() <= 8


def test_the_centre_square_is_cut_before_resizing() -> None:
    wide = np.zeros((16, 48), np.uint8)
    wide[:, 16:32] = 200
    square = digest_and_square(Image.fromarray(wide), 8)[1]
    assert set(square) == {200}, "nothing from outside the square bleeds in"


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = noise("RGB", (8, 8))
    assert digest_and_square(image, 8)[1] == image.tobytes()
