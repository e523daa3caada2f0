"""2,000 mutated image files are decoded or refused, without a crash or a hang; the counts of any mixture balance."""

from __future__ import annotations

import io
import random
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sklearn.datasets import load_digits, load_sample_image

from components.common.errors import DataRejectedError
from components.ingest.config import Decoding, IngestConfig
from components.ingest.pixels.decode import decode, pillow_prepared, plain_png
from components.ingest.run import run
from components.ingest.sources.chunks import CannotReadError

REASONS = {"empty file", "not an image", "truncated", "damaged", "too large", "too slow", "unsupported pixels"}
FILES, SECONDS_EACH = 2000, 5.0
SETTINGS = Decoding(16, 3, max_pixels=10_000_000, max_seconds=2.0, perceptual_hashes=True)


def real_files() -> list[bytes]:
    """Return photos and digits as JPEG, PNG and WebP files with common encoder options."""
    photos = [Image.fromarray(load_sample_image(name)).resize((160, 107)) for name in ("china.jpg", "flower.jpg")]
    digits = [Image.fromarray((image * 15).astype(np.uint8)) for image in load_digits().images[:3]]
    encodings: list[tuple[str, dict[str, Any]]] = [
        ("JPEG", {"quality": 90}), ("JPEG", {"progressive": True}), ("JPEG", {"subsampling": 2, "restart_marker_blocks": 4}),
        ("PNG", {}), ("PNG", {"compress_level": 0}), ("WEBP", {"quality": 70}), ("WEBP", {"lossless": True}),
    ]  # fmt: skip
    files = []
    for image in (*photos, *digits):
        for kind, options in encodings:
            stream = io.BytesIO()
            image.save(stream, kind, **options)
            files.append(stream.getvalue())
    for photo in photos:
        stream = io.BytesIO()
        photo.quantize(64).save(stream, "PNG", transparency=1)
        files.append(stream.getvalue())
    return files


def mutated(files: list[bytes], draw: random.Random) -> bytes:
    """Return one of the files with bits flipped, bytes removed, repeated or replaced, or spliced with another file."""
    content = bytearray(draw.choice(files))
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        position = draw.randrange(len(content) or 1)
        length = draw.choice((1, 1, 4, 50, 500))
        match draw.randrange(6):
            case 0 if content:
                content[position] ^= 1 << draw.randrange(8)
            case 1:
                content[position : position + length] = draw.randbytes(length)
            case 2:
                del content[position : position + length]
            case 3:
                content[position:position] = content[position : position + length]
            case 4:
                other = draw.choice(files)
                content[position:] = other[draw.randrange(len(other)) :]
            case _:
                content[position : position + 4] = draw.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
    return bytes(content[: draw.choice((len(content), len(content), draw.randrange(len(content) + 1)))])


@pytest.mark.timeout(300)
def test_two_thousand_mutated_files_are_decoded_or_refused() -> None:
    draw, files = random.Random(20261123), real_files()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with pillow_prepared(SETTINGS.max_pixels):
        for _ in range(FILES):
            content = mutated(files, draw)
            started = time.monotonic()
            try:
                outcomes["decoded" if len(decode(content, SETTINGS).pixels) == 16 * 16 * 3 else "wrong size"] += 1
            except CannotReadError as error:
                outcomes[error.reason] += 1
            slowest = max(slowest, time.monotonic() - started)
    assert set(outcomes) <= REASONS | {"decoded"}
    assert outcomes.total() == FILES
    assert min(outcomes[kind] for kind in ("decoded", "truncated", "damaged", "not an image")) >= 20, "all outcomes occur"
    assert slowest < SECONDS_EACH, "nothing hangs"


def test_plain_png_files_are_decoded_as_pillow_does_whatever_was_damaged() -> None:
    draw = random.Random(20261126)
    files = [encoded(noise(mode)) for mode in ("L", "LA", "RGB", "RGBA")]
    contents = files + [with_right_checksums(mutated(files, draw)) for _ in range(1000)]
    plain = 0
    with pillow_prepared(SETTINGS.max_pixels):
        for content in contents:
            if image := plain_png(content, SETTINGS.max_pixels):
                opened = Image.open(io.BytesIO(content), formats=["PNG"])
                assert (image.mode, image.size, image.tobytes()) == (opened.mode, opened.size, opened.tobytes())
                plain += 1
    assert plain > len(files), "some damaged ones too"
    assert plain_png(encoded(noise("L"), pnginfo=text()), 10_000) is None, "text may contain a rotation"
    assert plain_png(encoded(noise("P")), 10_000) is None
    assert plain_png(files[0], 30 * 20 - 1) is None


def noise(mode: str) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8), "RGBA").convert(mode)


def text() -> PngInfo:
    info = PngInfo()
    info.add_text("a", "b")
    return info


def encoded(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def with_right_checksums(content: bytes) -> bytes:
    """Return a PNG file with the right checksum in each chunk, so that damage reaches the decoder."""
    right, position = bytearray(content), 8
    while position + 12 <= len(right):
        end = position + 8 + int.from_bytes(right[position : position + 4], "big")
        right[end : end + 4] = zlib.crc32(right[position + 4 : end]).to_bytes(4, "big") if end + 4 <= len(right) else b""
        position = end + 4
    return bytes(right)


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 6), number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


KINDS: dict[str, Any] = {
    "image": lambda number: png(number),
    "same in another format": lambda number: b"P5 6 6 255\n" + bytes([number]) * 36,
    "empty": lambda number: b"",
    "text": lambda number: b"text %d" % number,
    "cut": lambda number: png(number)[:-8],
    "flipped": lambda number: png(number)[:45] + b"\0\0\0" + png(number)[48:],
    "large": lambda number: b"P5 600 600 255\n" + bytes([number]) * 360_000,
}
IMAGES = ("image", "same in another format")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 4)), min_size=1, max_size=40), st.integers(1, 4))
def test_counts_balance_for_any_mixture(mixture: list[tuple[str, int]], shards: int) -> None:
    pixels = {number for kind, number in mixture if kind in IMAGES}
    images = sum(kind in IMAGES for kind, _ in mixture)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for index, (kind, number) in enumerate(mixture):
            (folder / "in" / f"{index}.img").write_bytes(KINDS[kind](number))
        config = IngestConfig(source=f"images:{folder / 'in'}", shards=shards, max_quarantine_fraction=1.0, max_pixels=100_000)
        if not pixels:
            with pytest.raises(DataRejectedError, match="None of the"):
                run(config, out=folder / "out")
            return
        summary = run(config, out=folder / "out")
    assert (summary.read, summary.kept) == (len(mixture), len(pixels))
    assert (summary.duplicate, summary.quarantined) == (images - len(pixels), len(mixture) - images)
