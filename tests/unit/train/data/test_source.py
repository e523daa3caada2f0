"""The sources of training images: resident and streamed ones return the same batches; errors for damaged data."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.artifacts import new_artifact
from components.common.errors import ArtifactError
from components.dataset import records
from components.dataset.records import NO_LABEL, Record, SplitIndex, encode_example, read_split, shard_name, write_tfrecord
from components.ingest.config import IngestConfig
from components.train import noise
from components.train.data import batches, reader, resident, streamed
from components.train.data.batches import RoundBatches
from components.train.data.source import Source, open_source, rounds_that_fit
from components.train.data.streamed import Streamed
from tests.support.local_runs import ROOT
from tests.unit.dataset.test_records import damaged

SHARDS = (13, 0, 21, 3)  # 37 images, not a multiple of the batch size, so batches cross epochs; one shard is empty
N_CRITIC, BATCH, SEED = 2, 5, 7
ROUND = N_CRITIC * BATCH
IMAGE_BYTES = 4 * 4 * 3


def write_dataset(
    folder: Path, shards: tuple[int, ...] = SHARDS, labels: Any = lambda number: number % 4, size: int = 4, **details: Any
) -> Path:
    """Write a dataset whose image i is random with seed i; ids differ in length."""
    with new_artifact(folder, "dataset", config=IngestConfig()) as artifact:
        numbers = iter(range(sum(shards)))
        for shard, length in enumerate(shards):
            part = [encode_example(record(next(numbers), labels, size)) for _ in range(length)]
            write_tfrecord(artifact.path / shard_name("train", shard, len(shards)), part)
        write_tfrecord(artifact.path / shard_name("eval", 0, 1), [encode_example(record(10_000, labels, size))])
        artifact.counts |= {"train": sum(shards), "eval": 1}
        artifact.details |= {"image_size": 4, "channels": 3, **details}
    return folder


def record(number: int, labels: Any, size: int = 4) -> Record:
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8)
    return Record(pixels, labels(number), "é" * number)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(autouse=True)
def no_thread_remains() -> Iterator[None]:
    yield
    if reading_threads():
        gc.collect()
    assert reading_threads() == []


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("images of round")]


def opened(dataset: Path, mode: Literal["auto", "resident", "stream"], **changes: Any) -> Source:
    return open_source(dataset, **{"seed": SEED, "n_critic": N_CRITIC, "batch_size": BATCH, "mode": mode, **changes})


def all_batches(source: Source, calls: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of all rounds of `calls` (first round, rounds), as a host call reads them."""

    @tf.function(reduce_retracing=True)
    def call(taken: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
        rounds = tf.shape(taken[0])[0]
        images = tf.TensorArray(tf.uint8, rounds, element_shape=[N_CRITIC, BATCH, *source.shape])
        labels = tf.TensorArray(tf.int32, rounds, element_shape=[N_CRITIC, BATCH])
        for offset in tf.range(rounds):
            batch = source.batch(taken, offset)
            images, labels = images.write(offset, batch.images), labels.write(offset, batch.labels)
        return images.stack(), labels.stack()

    parts = [call(source.take(first, rounds)) for first, rounds in calls]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def expected(dataset: Path, first_round: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the same directly from the whole split, in the order of noise.batch_indices."""
    images, labels, _ = read_split(dataset, "train")
    order = noise.batch_indices(SEED, len(images), first_round * N_CRITIC, rounds * N_CRITIC, BATCH)
    order = order.reshape(rounds, N_CRITIC, BATCH)
    return images[order], labels[order]


CALLS = {
    "calls of equal length, over three epochs": [(0, 4), (4, 4), (8, 4)],
    "a shorter last call": [(0, 5), (5, 5), (10, 2)],
    "a longer call": [(0, 2), (2, 6)],
    "resumed": [(9, 3), (12, 1)],
    "back and forth": [(20, 2), (3, 2), (5, 2), (50, 1)],
    "one round far away": [(1_000_000, 1)],
}


@pytest.mark.parametrize("calls", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("mode", ["resident", "stream"])
def test_the_images_of_a_round_depend_only_on_seed_and_round(mode: Any, calls: list[tuple[int, int]], dataset: Path) -> None:
    source = opened(dataset, mode)
    images, labels = all_batches(source, calls)
    parts = [expected(dataset, first, rounds) for first, rounds in calls]
    np.testing.assert_array_equal(images, np.concatenate([part for part, _ in parts]))
    np.testing.assert_array_equal(labels, np.concatenate([part for _, part in parts]))
    source.close()


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=6), st.integers(0, 2**31 - 1))
def test_both_sources_return_the_same_bytes(dataset: Path, calls: list[tuple[int, int]], seed: int) -> None:
    resident, streamed = opened(dataset, "resident", seed=seed), opened(dataset, "stream", seed=seed)
    for first_round, rounds in calls:
        one, other = resident.take(first_round, rounds), streamed.take(first_round, rounds)
        for offset in range(rounds):
            pairs = zip(resident.batch(one, offset), streamed.batch(other, offset), strict=True)
            assert all(mine.dtype == its.dtype and mine.numpy().tobytes() == its.numpy().tobytes() for mine, its in pairs)
    streamed.close()


def test_a_batch_larger_than_the_dataset(dataset: Path) -> None:
    taken = [np.asarray(opened(dataset, "stream", batch_size=100).take(0, 1)[0]) for _ in range(2)]
    assert taken[0].shape == (1, N_CRITIC, 100, 4, 4, 3)
    assert taken[0].tobytes() == taken[1].tobytes()


@pytest.mark.parametrize("mode", ["resident", "stream"])
def test_properties_of_a_source(mode: Any, dataset: Path) -> None:
    source = opened(dataset, mode)
    assert source.shape == (4, 4, 3)
    assert source.count == 37
    assert source.bytes_per_round == sum(tensor.numpy().nbytes for tensor in source.take(0, 1))
    np.testing.assert_array_equal(source.first(3), read_split(dataset, "train").images[:3])
    assert source.first(100).shape == (37, 4, 4, 3)
    source.close()


def test_auto_loads_datasets_up_to_the_limit_into_memory(dataset: Path) -> None:
    for limit, kind in ((37 * IMAGE_BYTES, resident.Resident), (37 * IMAGE_BYTES - 1, Streamed)):
        source = opened(dataset, "auto", resident_limit_bytes=limit)
        assert isinstance(source, kind)
    assert isinstance(opened(dataset, "auto"), resident.Resident)


def test_rounds_that_fit() -> None:
    assert rounds_that_fit(100, 1000) == 10
    assert rounds_that_fit(101, 1000) == 9
    assert rounds_that_fit(5000, 1000) == 1
    assert rounds_that_fit(2**20) == 256


class Reads:
    """Counts the records that are read. After `limit` records, reading blocks until `go_on` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int = 10**9) -> None:
        self.records, self.go_on, original = 0, threading.Event(), SplitIndex.read

        def read(index: SplitIndex, numbers: Any) -> list[bytes]:
            if self.records >= limit:
                assert self.go_on.wait(20)
            self.records += len(numbers)
            return original(index, numbers)

        monkeypatch.setattr(SplitIndex, "read", read)


def read_ahead(source: Source) -> threading.Thread:
    """Return the thread that reads the next call."""
    (reading,) = source._ahead  # type: ignore[attr-defined]
    return reading._thread  # type: ignore[no-any-return]


def test_a_resumed_run_does_not_read_earlier_rounds(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    source = opened(dataset, "stream")
    assert reads.records == 0
    source.take(123_456, 2)
    read_ahead(source).join(20)
    assert reads.records == 4 * ROUND, "this call and the next"
    source.close()


def test_the_next_call_is_read_ahead(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch, limit=6 * ROUND)
    source = opened(dataset, "stream")
    source.take(0, 3)
    read_ahead(source).join(20)
    assert reads.records == 6 * ROUND, "rounds 3 to 5 are read ahead"
    source.take(3, 3)  # returns although reading is blocked
    reads.go_on.set()
    source.take(6, 1)  # a shorter last call uses what was read ahead
    source.close()
    assert reads.records <= 10 * ROUND


def test_the_index_reads_each_byte_once(dataset: Path) -> None:
    seen: list[bytes] = []
    index = SplitIndex(dataset, "train", seen.append)
    assert len(index) == 37
    assert seen == [encode_example(record(number, lambda i: i % 4)) for number in range(37)]
    assert seen == index.read(np.arange(37))


@given(numbers=st.lists(st.integers(0, 36), min_size=1, max_size=50))
def test_any_records_can_be_read(dataset: Path, numbers: list[int]) -> None:
    ascending = np.sort(numbers)
    assert SplitIndex(dataset, "train").read(ascending) == [encode_example(record(n, lambda i: i % 4)) for n in ascending]


def test_the_size_of_chunks_does_not_change_the_result(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHUNK_BYTES", 7 * IMAGE_BYTES)
    np.testing.assert_array_equal(all_batches(opened(dataset, "stream"), [(3, 4)])[0], expected(dataset, 3, 4)[0])
    np.testing.assert_array_equal(all_batches(opened(dataset, "resident"), [(3, 4)])[0], expected(dataset, 3, 4)[0])


# Memory


def test_at_most_two_calls_are_in_memory(tmp_path: Path) -> None:
    rounds = 1500
    source = opened(write_dataset(tmp_path / "dataset"), "stream")
    call_bytes = rounds * source.bytes_per_round
    source.take(0, rounds)
    tracemalloc.start()
    for call in range(1, 6):
        source.take(call * rounds, rounds)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    source.close()
    order_bytes = 4 * 8 * rounds * ROUND  # arrays in noise.batch_indices and NumPy's temporary ones
    assert call_bytes < peak < 2.1 * call_bytes + order_bytes + 2 * reader.CHUNK_BYTES


def test_a_resident_dataset_is_in_memory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHUNK_RECORDS", 4)
    folder = write_dataset(tmp_path / "dataset", shards=(300, 100), size=64, image_size=64)
    tracemalloc.start()
    source = opened(folder, "resident")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    pixels = source.count * 64 * 64 * 3
    assert pixels < peak < 1.2 * pixels


def test_a_tensor_shares_the_memory_of_an_aligned_array() -> None:
    array = batches.aligned_empty((3, 5), np.uint8)
    array[:] = 1
    tensor = batches.shared_tensor(array)
    array[2, 4] = 9
    assert int(tensor[2, 4]) == 9


@pytest.mark.parametrize("spoil", ["unaligned", "read-only", "strided"])
def test_other_arrays_are_copied_to_aligned_memory(spoil: str) -> None:
    array = batches.aligned_empty((65, 16), np.uint8)
    array[:] = np.arange(65 * 16).reshape(65, 16) % 251
    if spoil == "unaligned":
        array = array.ravel()[1:].reshape(-1)
    elif spoil == "strided":
        array = array[:, ::2]
    else:
        array.setflags(write=False)
    tensor = batches.shared_tensor(array)
    np.testing.assert_array_equal(tf.cast(tensor, tf.float32), array)  # the cast aborts the process if memory is not aligned


# The thread


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Return the reads of a source that reads image by image, and blocks in its first image read ahead of 100 rounds."""
    monkeypatch.setattr(reader, "CHUNK_RECORDS", 1)
    return Reads(monkeypatch, limit=100 * ROUND)


@pytest.fixture
def reading(dataset: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Return a source whose thread is blocked in reading ahead, until it is stopped."""
    source = opened(dataset, "stream")
    reads.delay_seconds, reads.without_delay = 0.01, 100 * ROUND
    source.take(0, 100)
    stop = source._ahead[0]._stop  # type: ignore[attr-defined]
    original = stop.set

    def set_stop() -> None:
        original()
        reads.go_on.set()

    monkeypatch.setattr(stop, "set", set_stop)
    return source


def test_close_stops_the_thread_while_it_reads(reading: Source, reads: Reads) -> None:
    assert len(reading_threads()) == 1
    reading.close()
    assert reading_threads() == []
    assert reads.records <= 100 * ROUND + 1, "it stops after the current chunk"
    reading.close()
    with pytest.raises(ValueError, match=r"take\(\) after close\(\)"):
        reading.take(0, 1)


def test_taking_another_round_does_not_wait_for_what_is_read_ahead(reading: Source, reads: Reads) -> None:
    reading.take(70, 1)
    reading.close()
    assert reads.records <= 102 * ROUND + 1


def test_garbage_collection_of_a_source_stops_its_thread(dataset: Path) -> None:
    source = opened(dataset, "stream")
    source.take(0, 1)
    ahead = source._ahead  # type: ignore[attr-defined]
    del source
    gc.collect()
    assert ahead == []


ENDS_WITHOUT_CLOSE = """
import sys, threading
from pathlib import Path
from components.dataset.records import SplitIndex
from components.train.data import reader, source as opening

reader.CHUNK_RECORDS = 1
original, go_on = SplitIndex.read, threading.Event()

def read(*arguments):
    if threading.current_thread().name == "images of round 100":
        go_on.wait()
    return original(*arguments)

SplitIndex.read = read
source = opening.open_source(Path(sys.argv[1]), seed=0, n_critic=2, batch_size=5, mode="stream")
source.take(0, 100)
stop = source._ahead[0]._stop
set_stop = stop.set
stop.set = lambda: (set_stop(), go_on.set(), print("stopped", flush=True))
raise SystemExit(3)
"""


def test_a_process_that_ends_without_close_ends_at_once(dataset: Path) -> None:
    """It does not wait for reading ahead, but stops the thread: TensorFlow would abort the process otherwise."""
    command = [sys.executable, "-c", ENDS_WITHOUT_CLOSE, str(dataset)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout) == (3, "stopped\n")


# Damage


def rounds_with(number: int, count: int = 37) -> int:
    """Return the first round that contains image `number`."""
    order = noise.batch_indices(SEED, count, 0, 20, BATCH).reshape(-1, ROUND)
    return int(np.flatnonzero((order == number).any(axis=1))[0])


def flip(file: Path, byte: int) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 4
    file.write_bytes(content)


def test_damage_is_reported_only_when_its_round_is_taken(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "dataset")
    number = next(number for number in range(37) if rounds_with(number) == 2)
    index = SplitIndex(folder, "train")
    shard, within = next((s, number - sum(SHARDS[:s])) for s in range(4) if number < sum(SHARDS[: s + 1]))
    start, length = records.record_positions(index.files[shard])[within]
    source = opened(folder, "stream")
    flip(index.files[shard], int(start) + 30)
    source.take(0, 1)
    source.take(1, 1)
    for _ in range(2):  # from the thread that read ahead, and from a new one
        with pytest.raises(ArtifactError, match=rf"{shard_name('train', shard, 4)} is damaged at byte {start + length}"):
            source.take(2, 1)
    source.close()
    for mode in ("resident", "stream"):
        with pytest.raises(ArtifactError, match=rf"{shard_name('train', shard, 4)} does not match its digest"):
            opened(folder, mode)


@settings(max_examples=60)
@given(st.data())
def test_any_flipped_bit_or_truncation_is_detected(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Path(folder) / "dataset", shards=(2,))
        file = dataset / shard_name("train", 0, 1)
        file.write_bytes(damaged(data, file.read_bytes(), first=-1))
        with pytest.raises(ArtifactError, match=r"is damaged: train-00000-of-00001\.tfrecord does not match its digest"):
            SplitIndex(dataset, "train").read(np.arange(2))


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "dataset")
    source = opened(folder, "stream")
    (folder / shard_name("train", 2, 4)).unlink()
    with pytest.raises(ArtifactError, match=r"Cannot read .*train-00002-of-00004.tfrecord: No such file"):
        source.take(0, 4)
    with pytest.raises(ArtifactError, match=r"Cannot read .*train-00002-of-00004.tfrecord: No such file"):
        opened(folder, "stream")


@pytest.mark.parametrize("mode", ["resident", "stream"])
def test_invalid_records(mode: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="A record holds 75 bytes instead of 4×4×3"):
        opened(write_dataset(tmp_path / "other size", size=5), mode).take(0, 1)
    with pytest.raises(ArtifactError, match="A record has the invalid label 1099511627776"):
        opened(write_dataset(tmp_path / "label", labels=lambda number: 2**40), mode).take(0, 1)
    with new_artifact(tmp_path / "no example", "dataset", config=IngestConfig()) as artifact:
        write_tfrecord(artifact.path / shard_name("train", 0, 1), [b"\x0a\x00"] * 37)
        artifact.counts |= {"train": 37, "eval": 0}
        artifact.details |= {"image_size": 4, "channels": 3}
    with pytest.raises(ArtifactError, match="A record does not hold an image with a label"):
        opened(tmp_path / "no example", mode).take(0, 1)


@pytest.mark.parametrize("mode", ["auto", "resident", "stream"])
def test_a_dataset_without_training_images(mode: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no training images"):
        opened(write_dataset(tmp_path / "dataset", shards=(0, 0)), mode)


# Labels

NAMES = {"label_names": ["zero", "one", "two", "three", "never"]}
HISTOGRAM = {"label_histogram": {"train": {"zero": 10, "one": 9, "two": 9, "three": 9}}}


@pytest.mark.parametrize("mode", ["resident", "stream"])
@pytest.mark.parametrize("details", [{}, NAMES, NAMES | HISTOGRAM], ids=["no names", "names", "histogram"])
def test_number_of_images_of_each_class(mode: Any, details: dict[str, Any], tmp_path: Path) -> None:
    counts = opened(write_dataset(tmp_path / "dataset", **details), mode).label_counts
    assert counts == [10, 9, 9, 9] + [0] * (details != {})


def test_a_streamed_source_uses_the_manifest_if_it_counts_every_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    assert opened(write_dataset(tmp_path / "a", **NAMES, **HISTOGRAM), "stream").label_counts == [10, 9, 9, 9, 0]
    assert reads.records == 0
    unbalanced = {"label_histogram": {"train": {"zero": 10}}}
    assert opened(write_dataset(tmp_path / "b", **NAMES, **unbalanced), "stream").label_counts == [10, 9, 9, 9, 0]
    assert reads.records == 37


@pytest.mark.parametrize("mode", ["resident", "stream"])
@pytest.mark.parametrize("histogram", [{}, {"label_histogram": {"train": {"unlabelled": 37}}}])
def test_a_dataset_without_labels_has_no_classes(mode: Any, histogram: dict[str, Any], tmp_path: Path) -> None:
    source = opened(write_dataset(tmp_path / "dataset", labels=lambda number: NO_LABEL, **histogram), mode)
    assert source.label_counts == []
    assert set(all_batches(source, [(0, 2)])[1].ravel()) == {NO_LABEL}


@pytest.mark.parametrize("mode", ["resident", "stream"])
def test_too_large_labels_are_an_error_only_if_classes_are_needed(mode: Any, tmp_path: Path) -> None:
    source = opened(write_dataset(tmp_path / "dataset", labels=lambda number: 10**6 + number), mode)
    source.take(0, 1)
    with pytest.raises(ArtifactError, match="The labels go up to 1000036; at most 65536 classes are supported"):
        _ = source.label_counts


@pytest.mark.parametrize(
    ("histogram", "names", "counts"),
    [
        ({"0": 3, "2": 1}, [], {0: 3, 2: 1}),
        ({"b": 3, "unlabelled": 1}, ["a", "b"], {1: 3, -1: 1}),
        ({"b": 3, "7": 1}, ["a", "b"], {1: 3, 7: 1}),
        ({"0": 3, "1": 4}, ["1", "0"], {1: 3, 0: 4}),
        ({"7": 3}, ["7"], None),  # either the class with this name, or label 7
        ({"a": 3}, ["a", "a"], None),
        ({"unlabelled": 3}, ["unlabelled"], None),
        ({"c": 3}, ["a", "b"], None),
    ],
)
def test_histogram_by_label(histogram: Any, names: list[str], counts: Any) -> None:
    assert streamed.counts_by_label(histogram, names) == counts


def test_fields_of_a_batch() -> None:
    assert RoundBatches._fields == ("images", "labels")
