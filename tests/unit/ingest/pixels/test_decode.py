"""Decoding: every kind of file that an image folder contains, and the reasons for those that cannot be read."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from components.ingest.pixels.crop import crop, provenance
from components.ingest.pixels.decode import (
    FORMATS,
    Decoded,
    Decoding,
    decode,
    open_image,
    pillow_prepared,
)
from components.ingest.pixels.near_duplicates import perceptual_hash
from components.ingest.sources.chunks import CannotReadError


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(mode: str = "L", size: tuple[int, int] = (16, 16), seed: int = 0) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    shape = (size[1], size[0], bands)[: 2 if bands == 1 else 3]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def decode_image(content: bytes, channels: int) -> Image.Image:
    return open_image(content, Decoding(8, channels))[0]


def decoded_as(image: Image.Image, size: int, **fields: Any) -> Decoded:
    return decode(file_of(image), Decoding(size, len(image.getbands()), **fields))


def reason_of(content: bytes, channels: int = 1, **fields: Any) -> tuple[str, str]:
    with pytest.raises(CannotReadError) as caught:
        decode(content, Decoding(8, channels, **fields))
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


def test_transparency_becomes_white() -> None:
    image = Image.new("RGBA", (1, 2), (0, 0, 0, 0))
    image.putpixel((0, 1), (0, 0, 0, 255))
    assert np.asarray(decode_image(file_of(image), 1)).ravel().tolist() == [255, 0]
    assert np.asarray(decode_image(file_of(image.convert("LA")), 1)).ravel().tolist() == [255, 0]


def test_transparent_palette_entry_becomes_white() -> None:
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


def test_first_frame_of_an_animation_is_used() -> None:
    frames = [Image.new("L", (4, 4), level) for level in (10, 200)]
    content = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert set(decode_image(content, 1).tobytes()) == {10}


def test_reasons_of_unreadable_files() -> None:
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


def test_flipped_bit_in_a_png_is_found_by_the_checksum() -> None:
    content = bytearray(file_of(noise()))
    content[content.index(b"IDAT") + 20] ^= 1
    assert reason_of(bytes(content)) == ("damaged", "wrong checksum of chunk IDAT")


def test_postscript_is_not_passed_to_ghostscript() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    assert reason_of(postscript)[0] == "not an image"


def test_image_with_too_many_pixels_is_not_decoded() -> None:
    assert decoded_as(Image.new("L", (31, 32)), 8, max_pixels=1000).width == 31
    for side in (32, 100):
        refused = reason_of(file_of(Image.new("L", (side, side))), max_pixels=1000)
        assert refused == ("too large", f"{side}×{side} pixels, 1,000 are allowed (ingest.max_pixels)")


def test_image_inside_an_image_has_the_same_limit() -> None:
    icon = file_of(Image.new("RGBA", (200, 200)), "ICO", sizes=[(200, 200)])
    with pillow_prepared(1000):
        assert reason_of(icon, max_pixels=1000)[0] == "too large"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "GIF"])
def test_decoding_has_a_deadline(kind: str) -> None:
    content = file_of(noise(size=(400, 400)), kind)
    assert reason_of(content, max_seconds=1e-9) == ("too slow", "not decoded within 1e-09 s")
    assert decode(content, Decoding(8, 1)).width == 400


def test_details_are_one_line_without_memory_addresses() -> None:
    for content in (b"x", file_of(noise())[:40], b"II*\0" + b"\xff" * 60):
        with pillow_prepared(10**9):
            detail = reason_of(content)[1]
        assert "0x" not in detail
        assert "\n" not in detail


FILES = [file_of(noise("RGB"), kind) for kind in FORMATS if kind != "ICO"]
REASONS = {"empty file", "not an image", "truncated", "damaged", "too large", "unsupported pixels"}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FILES), st.data())
def test_damaged_files_are_decoded_or_refused(content: bytes, data: st.DataObject) -> None:
    damaged = bytearray(content)
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        damaged[position] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    with pillow_prepared(10**9):
        try:
            found = decode(bytes(damaged[:end]), Decoding(8, 3, perceptual_hashes=True))
        except CannotReadError as error:
            assert error.reason in REASONS  # noqa: PT017  # an image that still decodes is right too
        else:
            assert len(found.pixels) == 8 * 8 * 3


def test_warnings_of_pillow_are_silenced() -> None:
    def noisy() -> None:
        exec(compile("import warnings; warnings.warn('odd file')", "f", "exec"), {"__name__": "PIL.TiffImagePlugin"})

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pillow_prepared(10**9):
            noisy()
            warnings.warn("ours", stacklevel=1)
        assert [str(entry.message) for entry in seen] == ["ours"]
        noisy()
        assert len(seen) == 2


def test_digest_depends_on_pixels_size_and_mode() -> None:
    image = noise()
    png, bmp = (decode(file_of(image, kind), Decoding(8, 1)).digest for kind in ("PNG", "BMP"))
    assert png == bmp, "the file format does not matter"
    changed = image.copy()
    changed.putpixel((3, 3), (changed.getpixel((3, 3)) + 1) % 256)
    reshaped = Image.frombytes("L", (8, 32), image.tobytes())
    others = {decoded_as(other, 8).digest for other in (changed, reshaped, image.convert("RGB"))}
    assert len(others | {png}) == 4


def test_resizing_is_antialiased() -> None:
    # Stripes of one pixel: decimating without a filter gives all black or all white, averaging gives grey.
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32)))
    for way in ("lanczos", "area"):
        square = np.frombuffer(decoded_as(stripes, 8, resize=way).pixels, np.uint8)
        assert np.abs(square.astype(int) - 127).max() <= 8


def test_area_is_the_mean_over_areas() -> None:
    image = noise(size=(16, 16))
    means = np.asarray(image, float).reshape(4, 4, 4, 4).mean(axis=(1, 3))
    found = np.frombuffer(decoded_as(image, 4, resize="area").pixels, np.uint8).reshape(4, 4)
    assert np.abs(found - means).max() < 1  # Pillow rounds twice


def test_centre_square_is_cropped_before_resizing() -> None:
    wide = np.zeros((16, 48), np.uint8)
    wide[:, 16:32] = 200
    assert set(decoded_as(Image.fromarray(wide), 8).pixels) == {200}, "nothing from outside the square bleeds in"


@pytest.mark.parametrize(("width", "height"), [(16, 48), (48, 16), (1, 1000)])
def test_padding_preserves_the_whole_image(width: int, height: int) -> None:
    square = np.frombuffer(decoded_as(Image.new("L", (width, height), 200), 12, fit="pad").pixels, np.uint8).reshape(12, 12)
    across = max(1, 12 * min(width, height) // max(width, height))
    assert (square == 200).sum() == 12 * across
    assert (square == 0).sum() == 12 * (12 - across)
    lit = np.flatnonzero((square == 200).any(axis=0 if width < height else 1))
    assert abs((lit[0] + lit[-1]) / 2 - 5.5) <= 0.5, "the image is centred"


def test_image_of_the_target_size_is_unchanged() -> None:
    image = noise("RGB", (8, 8))
    assert decoded_as(image, 8) == Decoded(decoded_as(image, 8).digest, image.tobytes(), 8, 8, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_height_and_width_are_those_after_rotation(orientation: int) -> None:
    image, exif = noise("RGB", (400, 300)), Image.Exif()
    exif[0x0112] = orientation
    turned = decode(file_of(image, "JPEG", exif=exif), Decoding(8, 3))
    assert (turned.width, turned.height) == ((300, 400) if orientation >= 5 else (400, 300))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file_of(image, "JPEG", exif=exif))))
    found = open_image(file_of(image, "JPEG", exif=exif), Decoding(128, 3))[0]  # 128: not reduced
    assert found.tobytes() == upright.tobytes()


def photo(name: str) -> Image.Image:
    """Return one of the two photos of scikit-learn, 640×427 pixels."""
    return Image.fromarray(load_sample_image(name))


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize("size", [28, 32, 64])
def test_jpeg_reduced_while_decoding_looks_the_same(name: str, size: int) -> None:
    content = file_of(photo(name), "JPEG", quality=92)
    settings = Decoding(size, 3)
    reduced, height, width = open_image(content, settings)
    assert (height, width) == (427, 640)
    assert min(reduced.size) >= 3 * size
    assert (reduced.size < (640, 427)) == (6 * size <= 427)
    whole = crop(Image.open(io.BytesIO(content)), settings, height, width)
    difference = np.abs(np.asarray(crop(reduced, settings, height, width), int) - np.asarray(whole, int))
    assert difference.mean() < 0.6, "grey levels of 255"
    assert np.percentile(difference, 99) <= 4


def test_perceptual_hashes_are_similar_for_similar_images() -> None:
    hashed = Decoding(64, 3, perceptual_hashes=True)
    flower, china = (decode(file_of(photo(name)), hashed) for name in ("flower.jpg", "china.jpg"))
    softer = photo("flower.jpg").resize((320, 213)).convert("L").convert("RGB")
    again = decode(file_of(softer, "JPEG", quality=40), hashed)
    assert again.digest != flower.digest
    assert (again.perceptual_hash ^ flower.perceptual_hash).bit_count() <= 4
    assert (china.perceptual_hash ^ flower.perceptual_hash).bit_count() > 16
    assert flower.perceptual_hash == perceptual_hash(Image.frombytes("RGB", (64, 64), flower.pixels))
    assert decode(file_of(photo("flower.jpg")), Decoding(64, 3)).perceptual_hash == 0


def test_provenance() -> None:
    assert "centre square, then Pillow LANCZOS (antialiased); a JPEG whose shorter side has at least 384 pixels" in provenance(
        Decoding(64, 3)
    )
    assert "padded with black to a square, then mean over areas (Pillow BOX)" in provenance(Decoding(8, 1, "area", "pad"))
