"""Near duplicates: the comparison of hashes, and the whole step; equal pixels are tested in tests/unit/ingest/test_run.py."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from components.ingest.config import IngestConfig
from components.ingest.pixels import near_duplicates
from components.ingest.pixels.near_duplicates import BLOCK, NONE, Hashes, KeptHashes, bands
from components.ingest.run import run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two photos, each also smaller and in grey, and one of them twice."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("china", "flower"):
        photo = Image.fromarray(load_sample_image(f"{name}.jpg"))
        photo.save(folder / f"{name}.png")
        photo.resize((320, 213)).save(folder / f"{name}_small.jpg", quality=60)
        photo.convert("L").save(folder / f"{name}_grey.png")
    Image.fromarray(load_sample_image("china.jpg")).save(folder / "again.bmp")
    return folder


@pytest.mark.parametrize("shards", [1, 3, 120])
def test_near_duplicates_are_dropped_across_shards(photos: Path, tmp_path: Path, shards: int) -> None:
    config = IngestConfig(source=f"images:{photos}", image_size=64, channels=3, near_duplicates=6, shards=shards)
    summary = run(config, out=tmp_path / "out")
    assert (summary.read, summary.kept, summary.duplicate, summary.quarantined) == (7, 2, 5, 0)
    listed = [json.loads(line) for line in (tmp_path / "out" / "duplicates.jsonl").read_text().splitlines()]
    assert [(row["id"], row["of"], row["kind"]) for row in listed] == [
        ("china.png", "again.bmp", "same pixels"),
        ("china_grey.png", "again.bmp", "looks alike"),
        ("china_small.jpg", "again.bmp", "looks alike"),
        ("flower_grey.png", "flower.png", "looks alike"),
        ("flower_small.jpg", "flower.png", "looks alike"),
    ]


def test_near_duplicates_are_kept_by_default(photos: Path, tmp_path: Path) -> None:
    summary = run(IngestConfig(source=f"images:{photos}", image_size=64, channels=3), out=tmp_path / "out")
    assert (summary.kept, summary.duplicate) == (6, 1)


def near_by_brute_force(hashes: list[int], bits: int) -> list[tuple[int, int]]:
    """Return (position, number of the first similar kept hash) of each hash that is dropped."""
    kept: list[int] = []
    gone = []
    for at, value in enumerate(hashes):
        near = [number for number, other in enumerate(kept) if (other ^ value).bit_count() <= bits]
        gone += [(at, near[0])] if near else []
        kept += [] if near else [value]
    return gone


def in_blocks(hashes: Hashes, bits: int, sizes: list[int]) -> tuple[KeptHashes, list[int]]:
    """Add hashes in blocks of these sizes, repeated; return the kept ones, and the answer for each hash."""
    kept, answers, start = KeptHashes(bits), list[int](), 0
    while start < len(hashes):
        size = sizes[0]
        answers += kept.add(hashes[start : start + size]).tolist()
        start, sizes = start + size, [*sizes[1:], size]
    return kept, answers


def flipped(rng: np.random.Generator, count: int, flips: int) -> Hashes:
    """Return hashes that differ from one hash in at most `flips` bits."""
    hashes = np.full(count, 0x0123456789ABCDEF, np.uint64)
    for _ in range(flips):
        hashes ^= np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)
    return hashes


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=12), st.integers(0, 16), st.randoms(use_true_random=False),
    st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 9), st.integers(1, 64),
)  # fmt: skip
def test_near_duplicates_equal_those_of_comparing_all_pairs(
    hashes: list[int], bits: int, flips: random.Random, sizes: list[int], step: int, pairs: int
) -> None:
    mixed = [*hashes]
    for value in hashes:  # neighbours at every distance around the limit
        for _ in range(3):
            mixed.append(value ^ sum(1 << bit for bit in flips.sample(range(64), flips.randint(0, bits + 2))))
    flips.shuffle(mixed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "STEP", step)
        patch.setattr(near_duplicates, "PAIRS_AT_ONCE", pairs)
        _, found = in_blocks(np.array(mixed, np.uint64), bits, sizes)
    assert [(at, number) for at, number in enumerate(found) if number != NONE] == near_by_brute_force(mixed, bits)


@pytest.mark.parametrize("bits", [0, 3, 6, 10])
def test_more_kept_hashes_than_a_block(bits: int) -> None:
    hashes = np.concatenate([flipped(np.random.default_rng(bits), 6000, 2 * bits + 8) for _ in range(3)])
    _, found = in_blocks(hashes, bits, [BLOCK])
    _, in_parts = in_blocks(hashes, bits, [1000])
    assert found == in_parts
    kept = hashes[np.array(found) == NONE]
    assert len(kept) > BLOCK // 2
    for at, number in list(enumerate(found))[::97]:
        distances = np.bitwise_count(kept ^ hashes[at])
        expected = int(np.argmax(distances <= bits))
        assert expected == number or (number == NONE and kept[expected] == hashes[at])


@pytest.mark.parametrize("flips", [0, 3])
def test_100_000_images_that_look_alike_take_little_memory(flips: int) -> None:
    hashes = flipped(np.random.default_rng(0), 100_000, flips)
    tracemalloc.start()
    try:
        _, found = in_blocks(hashes, 6, [BLOCK])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found[0] == NONE
    assert found[1:] == [0] * 99_999
    assert peak < 32 * 2**20, "comparing all pairs would need gigabytes"


def test_work_is_bounded_by_the_kept_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    are_similar = KeptHashes._are_similar

    def counted(self: KeptHashes, some: Hashes, others: Hashes) -> np.ndarray:
        nonlocal compared
        compared += len(some) * len(others)
        return are_similar(self, some, others)

    monkeypatch.setattr(KeptHashes, "_are_similar", counted)
    in_blocks(flipped(np.random.default_rng(0), 100_000, 3), 6, [BLOCK])
    assert compared < 20 * 100_000, "all pairs are 5,000,000,000"
    compared = 0
    rng = np.random.default_rng(0)
    different = rng.integers(0, 2**64 - 1, 40_000, np.uint64)
    in_blocks(different, 6, [BLOCK])
    assert compared < 0.25 * 40_000**2 / 2, "most are within a block, which does not grow"


@pytest.mark.parametrize("bits", [0, 1, 3, 7, 8, 16])
def test_bands_are_disjoint_and_small_enough_for_their_radius(bits: int) -> None:
    found = bands(bits)
    used = [bit for band in found for bit in band]
    assert len(used) == len(set(used))
    assert set(used) == set(range(64)) or all(len(band) == near_duplicates.BAND_BITS for band in found)
    radius = 0 if bits <= near_duplicates.EXACT_BITS else 1
    assert bits // len(found) <= radius, "hashes that differ in `bits` bits share a band up to the radius"
