"""From chunk files to shards: nothing depends on the order of arrival, and nothing damaged is copied."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.errors import ArtifactError
from components.common.store import Folder
from components.dataset.records import read_tfrecord
from components.ingest.beam.chunk_files import ENTRY, ChunkFile, Item, Part, read_chunk_file, read_parts, shard_of, write_chunk
from components.ingest.beam.shards import drop_equals, held_out, join_parts, write_shard
from components.ingest.beam.sorted_rows import unpacked_rows

DIGESTS = st.sampled_from([bytes([number]) * 16 for number in range(5)]) | st.binary(min_size=16, max_size=16)
ITEMS = st.lists(
    st.builds(
        Item, DIGESTS, st.integers(-1, 9), st.sampled_from(["", "train", "eval"]), st.integers(0, 2**64 - 1),
        st.text(max_size=5), st.binary(max_size=50),
    ),
    max_size=25, unique_by=lambda item: item.id,
)  # fmt: skip


def parts_of(folder: Path, *files: ChunkFile | None) -> list[Part]:
    """Return the parts of all shards of some chunk files."""
    return read_parts(Folder(folder), [span for file in files if file for span in file.parts.values()])


def cut(items: list[Item], sizes: random.Random) -> list[list[Item]]:
    """Return the items in chunks of random sizes."""
    chunks, rest = [], list(items)
    while rest:
        count = sizes.randint(1, len(rest))
        chunks.append(rest[:count])
        rest = rest[count:]
    return chunks


@given(ITEMS, st.integers(1, 4), st.randoms(use_true_random=False))
def test_shards_do_not_depend_on_chunks_or_their_order(items: list[Item], shards: int, shuffle: random.Random) -> None:
    import tempfile

    outcomes = []
    for attempt in range(2):
        with tempfile.TemporaryDirectory() as name:
            folder, parts = Path(name), dict[int, list[Any]]()
            shuffled = shuffle.sample(items, len(items)) if attempt else items
            for number, chunk in enumerate(cut(shuffled, shuffle)):
                found = write_chunk(Folder(folder), f"{number}.chunk", len(chunk), chunk, [], shards)
                assert read_chunk_file(Folder(folder), f"{number}.chunk") == found
                for shard, part in found.parts.items():
                    parts.setdefault(shard, []).append(part)
            result = []
            for index in range(shards):
                shard, dropped = drop_equals(join_parts(read_parts(Folder(folder), parts.get(index, []))))
                counts, _ = write_shard(shard, Folder(folder), index, shards, 0.5)
                result.append((counts, dropped, [file.read_bytes() for file in sorted(folder.glob(f"*-{index:05d}-of*"))]))
            outcomes.append(result)
    assert outcomes[0] == outcomes[1]
    counts = [counts for counts, *_ in outcomes[0]]
    assert sum(found["train"] + found["eval"] for found in counts) == len({item.digest for item in items})
    assert sum(len(dropped) for _, dropped, _ in outcomes[0]) == len(items) - len({item.digest for item in items})


@given(ITEMS)
def test_of_equal_images_a_held_out_one_or_the_smallest_id_is_kept(items: list[Item]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        found = write_chunk(Folder(Path(name)), "a", len(items), items, [], 1)
        shard, dropped = drop_equals(join_parts(parts_of(Path(name), found)))
    kept = dict(zip(((int(entry["high"]), int(entry["low"])) for entry in shard.entries), shard.ids, strict=True))
    for digest in {item.digest for item in items}:
        equals = [item for item in items if item.digest == digest]
        in_eval = [item for item in equals if item.split == "eval"]
        number = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
        assert kept[number] == min(item.id for item in in_eval or equals)
        assert {id for id, of, _ in dropped if of == kept[number]} == {item.id for item in equals} - {kept[number]}


def items_of(*numbers: int) -> list[Item]:
    return [Item(number.to_bytes(16, "big"), 0, "", 0, str(number), b"x" * number) for number in numbers]


def test_records_are_copied_unchanged(tmp_path: Path) -> None:
    write_chunk(Folder(tmp_path), "a", 2, items_of(3, 1), [], 1)
    found = write_chunk(Folder(tmp_path), "b", 2, items_of(2, 4), [("id", "why", "how", "head")], 1)
    assert read_chunk_file(Folder(tmp_path), "b") == found
    parts = parts_of(tmp_path, *(read_chunk_file(Folder(tmp_path), name) for name in "ab"))
    assert [row for part in parts for row in unpacked_rows(part.rejected)] == [("id", "why", "how", "head")]
    counts, _ = write_shard(join_parts(parts), Folder(tmp_path), 0, 1, 0.9)
    assert counts == {"train": 0, "eval": 4, "eval label 0": 4}
    assert list(read_tfrecord(tmp_path / "eval-00000-of-00001.tfrecord")) == [b"x" * size for size in (1, 2, 3, 4)]
    assert list(read_tfrecord(tmp_path / "train-00000-of-00001.tfrecord")) == []


@pytest.mark.parametrize("spoil", [lambda data: data[:-9], lambda data: data + b"x", lambda data: data[:20], lambda data: b""])
def test_incomplete_chunk_file_counts_as_missing(tmp_path: Path, spoil: Any) -> None:
    file = tmp_path / "a"
    write_chunk(Folder(file.parent), file.name, 2, items_of(3, 1), [], 1)
    assert read_chunk_file(Folder(file.parent), file.name) is not None
    file.write_bytes(spoil(file.read_bytes()))
    assert read_chunk_file(Folder(file.parent), file.name) is None
    file.unlink()
    assert read_chunk_file(Folder(file.parent), file.name) is None


def test_damaged_record_is_not_copied(tmp_path: Path) -> None:
    found = write_chunk(Folder(tmp_path), "a", 1, items_of(50), [], 1)
    content = bytearray((tmp_path / "a").read_bytes())
    content[-20] ^= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ArtifactError, match="a is damaged at byte"):
        write_shard(join_parts(parts_of(tmp_path, found)), Folder(tmp_path), 0, 1, 0.5)
    assert not list(tmp_path.glob("eval-*.tfrecord")), "the file of the damaged record does not exist"


@given(st.binary(min_size=16, max_size=16), st.floats(0.01, 0.99), st.integers(1, 50))
def test_split_and_shard_are_functions_of_the_digest(digest: bytes, fraction: float, shards: int) -> None:
    assert 0 <= shard_of(digest, shards) < shards
    entries = np.zeros(1, ENTRY)
    entries["high"] = int.from_bytes(digest[:8], "big")
    if held_out(entries, fraction)[0]:
        assert held_out(entries, min(0.99, fraction * 1.5))[0], "a larger share holds out the same images and more"
    for split, expected in ((1, False), (2, True)):
        entries["split"] = split
        assert held_out(entries, fraction)[0] == expected
