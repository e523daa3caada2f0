"""Real images in the order of training: resident in memory, or read from the TFRecords a call ahead; the same batches."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.common.artifacts import Manifest, read_manifest
from components.common.errors import ArtifactError
from components.dataset.records import NO_LABEL, SplitIndex
from components.train import noise

RESIDENT_LIMIT_BYTES = 2**30  # of pixels; "auto" streams what is larger
CALL_BUDGET_BYTES = 2**28  # of what one host call takes along
CHUNK_BYTES = 2**22  # of pixels parsed at once,
CHUNK_RECORDS = 4096  # if there are not more records than that: what a thread does before it looks whether it should end
MAX_CLASSES = 65_536
ALIGNMENT_BYTES = 64  # EIGEN_MAX_ALIGN_BYTES: TensorFlow ends the process over a tensor that is less aligned
SCHEMA = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

Shape = tuple[int, int, int]


class Batch(NamedTuple):
    """The global batches of one round: images uint8 [n_critic, B, H, W, C], labels int32 [n_critic, B]."""

    images: tf.Tensor
    labels: tf.Tensor


class Source(Protocol):
    """The training images in an order that is a function of (seed, round), whatever was asked for before.

    `shape` is height, width and channels, `count` the number of images, `label_counts` theirs by class, empty where an image
    has no label, `bytes_per_round` what `take` returns for a round.
    """

    shape: Shape
    count: int
    bytes_per_round: int

    @property
    def label_counts(self) -> list[int]:
        """Images by class. Raises ArtifactError when the labels cannot be classes."""

    def first(self, count: int) -> npt.NDArray[np.uint8]:
        """Return the first `count` images of the dataset (all, where there are fewer), to look at."""

    def take(self, first_round: int, rounds: int) -> tuple[tf.Tensor, ...]:
        """Return what a host call needs for `rounds` rounds from `first_round` on; each tensor has the rounds first."""

    def batch(self, taken: tuple[tf.Tensor, ...], offset: tf.Tensor) -> Batch:
        """Return the batches of round `offset` of what was taken; runs in the graph."""

    def close(self) -> None:
        """End what runs beside the training; nothing can be taken any more."""


def open_source(
    dataset: Path,
    *,
    seed: int,
    n_critic: int,
    batch_size: int,
    mode: Literal["auto", "resident", "stream"] = "auto",
    resident_limit_bytes: int = RESIDENT_LIMIT_BYTES,
) -> Source:
    """Return the training images of a dataset artifact; "auto" keeps up to `resident_limit_bytes` of pixels in memory.

    Raises ArtifactError when the dataset is damaged or has no image to train on.
    """
    manifest = read_manifest(dataset, "dataset", verify=False)
    size, channels = int(manifest.details["image_size"]), int(manifest.details["channels"])
    reader = ImageReader(SplitIndex(dataset, "train"), (size, size, channels))
    if not len(reader.index):
        raise ArtifactError(f"{dataset} has no training images.", "Run ingest on a source that has some.")
    small = len(reader.index) * reader.image_bytes <= resident_limit_bytes
    if mode == "resident" or (mode == "auto" and small):
        examples = reader.read(np.arange(len(reader.index)))
        classes = len(manifest.details.get("label_names", []))
        return Resident(*examples, seed=seed, n_critic=n_critic, batch_size=batch_size, classes=classes)
    return Streamed(reader, manifest, seed=seed, n_critic=n_critic, batch_size=batch_size)


def rounds_that_fit(bytes_per_round: int, budget: int = CALL_BUDGET_BYTES) -> int:
    """Return how many rounds a host call may have so that `Source.take` returns at most `budget` bytes; at least 1.

    A Streamed source holds two calls, the one that is computed and the one that is read: twice `budget`.
    """
    return max(1, budget // bytes_per_round)


class Order(NamedTuple):
    """What decides which image comes when."""

    seed: int
    images: int
    n_critic: int
    batch_size: int

    def indices(self, first_round: int, rounds: int) -> npt.NDArray[np.int32]:
        """Return the numbers of the images of consecutive rounds, [rounds, n_critic, B]."""
        first_batch, batches = first_round * self.n_critic, rounds * self.n_critic
        order = noise.batch_indices(self.seed, self.images, first_batch, batches, self.batch_size)
        return order.reshape(rounds, self.n_critic, self.batch_size)


class Resident:
    """A whole split in memory: a call takes the indices along, the images are gathered in the graph."""

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.integer],
        *,
        seed: int,
        n_critic: int,
        batch_size: int,
        classes: int = 0,
    ) -> None:
        """Keep images [N, H, W, C] and labels [N]; without a copy where their memory is aligned, so leave them alone then.

        `classes` is the number of classes that have a name; some of them may have no image.
        """
        count, height, width, channels = images.shape
        self.count, self.shape = count, (height, width, channels)
        self.bytes_per_round = 4 * n_critic * batch_size
        self._images, self._labels = shared_tensor(images), shared_tensor(labels.astype(np.int32, copy=False))
        self._order, self._classes = Order(seed, count, n_critic, batch_size), classes

    @cached_property
    def label_counts(self) -> list[int]:
        """Images by class."""
        return counts_by_class(_tally(self._labels.numpy()), self._classes)

    @property
    def everything(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The images uint8 [N, H, W, C] and labels int32 [N], which a TPU takes into its own memory."""
        return self._images, self._labels

    def first(self, count: int) -> npt.NDArray[np.uint8]:
        """Return the first images."""
        return np.array(self._images[:count])

    def take(self, first_round: int, rounds: int) -> tuple[tf.Tensor, ...]:
        """Return the numbers of the images, int32 [rounds, n_critic, B]."""
        return (tf.constant(self._order.indices(first_round, rounds)),)

    def batch(self, taken: tuple[tf.Tensor, ...], offset: tf.Tensor) -> Batch:
        """Gather the images of a round."""
        indices = tf.ensure_shape(taken[0][offset], [self._order.n_critic, self._order.batch_size])
        with tf.device(self._images.device):  # where the data is; elsewhere each call would copy all of it there
            return Batch(tf.gather(self._images, indices), tf.gather(self._labels, indices))

    def close(self) -> None:
        """Do nothing: nothing runs beside the training."""


class Streamed:
    """A split that stays in its TFRecords: a call takes its images along, while a thread reads those of the next.

    Two calls are in memory, each of rounds · n_critic · B · H · W · C bytes. The next call is guessed: it goes on where this
    one ends and has as many rounds, or fewer. Any other is read when it is asked for.
    """

    def __init__(self, reader: ImageReader, manifest: Manifest, *, seed: int, n_critic: int, batch_size: int) -> None:
        self.count, self.shape = len(reader.index), reader.shape
        self.bytes_per_round = n_critic * batch_size * (reader.image_bytes + 4)
        self._reader, self._manifest = reader, manifest
        self._order = Order(seed, self.count, n_critic, batch_size)
        self._ahead: list[_Reading] = []  # at most one
        # At the interpreter's exit too: a thread that is then still inside TensorFlow would abort the process.
        self._end = weakref.finalize(self, _cancel, self._ahead)

    @cached_property
    def label_counts(self) -> list[int]:
        """Images by class: as the manifest counts them, where it counts each image once, else counted in all records."""
        names = [str(name) for name in self._manifest.details.get("label_names", [])]
        histogram = self._manifest.details.get("label_histogram", {}).get("train", {})
        counts = counts_by_label(histogram, names)
        if counts is None or sum(counts.values()) != self.count:
            counts = self._reader.counts_by_label()
        return counts_by_class(counts, len(names))

    def first(self, count: int) -> npt.NDArray[np.uint8]:
        """Return the first images."""
        return self._reader.read(np.arange(min(count, self.count))).images

    def take(self, first_round: int, rounds: int) -> tuple[tf.Tensor, ...]:
        """Return images uint8 [rounds, n_critic, B, H, W, C] and labels int32 [rounds, n_critic, B].

        Raises ArtifactError when a record of these rounds is damaged, ValueError after `close`.
        """
        if not self._end.alive:
            raise ValueError("take() after close()")
        if not any(reading.covers(first_round, rounds) for reading in self._ahead):
            _cancel(self._ahead)
            self._ahead.append(_Reading(self._reader, self._order, first_round, rounds))
        examples = self._ahead.pop().result()
        self._ahead.append(_Reading(self._reader, self._order, first_round + rounds, rounds))
        by_round = (-1, self._order.n_critic, self._order.batch_size)
        images = examples.images.reshape(*by_round, *self.shape)
        return shared_tensor(images[:rounds]), shared_tensor(examples.labels.reshape(by_round)[:rounds])

    def batch(self, taken: tuple[tf.Tensor, ...], offset: tf.Tensor) -> Batch:
        """Slice out the images of a round."""
        rows = [self._order.n_critic, self._order.batch_size]
        images, labels = taken
        return Batch(tf.ensure_shape(images[offset], [*rows, *self.shape]), tf.ensure_shape(labels[offset], rows))

    def close(self) -> None:
        """End the thread, drop what it has read, and wait for it: as long as a chunk takes."""
        self._end()


class Examples(NamedTuple):
    """Images uint8 [N, H, W, C] and labels int32 [N]."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


class ImageReader:
    """Reads the images of any numbers from the shards of a split."""

    def __init__(self, index: SplitIndex, shape: Shape) -> None:
        self.index, self.shape = index, shape
        self.image_bytes = int(np.prod(shape))
        self.chunk = max(1, min(CHUNK_RECORDS, CHUNK_BYTES // self.image_bytes))

    def read(self, numbers: npt.NDArray[np.integer], stop: threading.Event | None = None) -> Examples:
        """Return the images of these numbers, in aligned memory; incomplete when `stop` was set meanwhile.

        Each shard is read from its begin to its end, whatever the order of `numbers`. Raises ArtifactError when a record is
        damaged, no image, or an image of another size.
        """
        images = aligned_empty((len(numbers), self.image_bytes), np.uint8)
        labels = aligned_empty((len(numbers),), np.int32)
        ascending = np.argsort(numbers, kind="stable")
        for start in range(0, len(numbers), self.chunk):
            if stop is not None and stop.is_set():
                break
            places = ascending[start : start + self.chunk]
            images[places], labels[places] = self._parsed(self.index.read(numbers[places]))
        return Examples(images.reshape(len(numbers), *self.shape), labels)

    def counts_by_label(self) -> Counter[int]:
        """Return the number of images by label; reads every record."""
        counts: Counter[int] = Counter()
        for start in range(0, len(self.index), self.chunk):
            numbers = np.arange(start, min(start + self.chunk, len(self.index)))
            counts.update(_tally(self.read(numbers).labels))
        return counts

    def _parsed(self, records: list[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        # TensorFlow's parser does 700,000 records a second, components.dataset.records.decode_example 100,000.
        with tf.device("CPU:0"):
            try:
                parsed = tf.io.parse_example(tf.constant(records), SCHEMA)
            except tf.errors.InvalidArgumentError:
                raise ArtifactError("A record holds no image with a label.", "Run ingest again.") from None
            lengths = tf.strings.length(parsed["image"]).numpy()
            if np.any(wrong := lengths != self.image_bytes):
                raise ArtifactError(
                    f"A record holds {lengths[wrong][0]} bytes, {'×'.join(map(str, self.shape))} are expected.",
                    "Run ingest again.",
                )
            labels = parsed["label"].numpy()
            if np.any(wrong := (labels < NO_LABEL) | (labels > np.iinfo(np.int32).max)):
                raise ArtifactError(f"A record has the label {labels[wrong][0]}, which is no class.", "Run ingest again.")
            return tf.io.decode_raw(parsed["image"], tf.uint8).numpy(), labels


class _Reading:
    """The images of a call while a thread reads them."""

    def __init__(self, reader: ImageReader, order: Order, first_round: int, rounds: int) -> None:
        self._first_round, self._rounds = first_round, rounds
        self._stop = threading.Event()
        self._outcome: Examples | BaseException = RuntimeError("not read yet")

        def read() -> None:
            try:
                self._outcome = reader.read(order.indices(first_round, rounds).ravel(), self._stop)
            except BaseException as error:  # noqa: BLE001 - result() raises it where somebody hears it
                self._outcome = error

        # A daemon: whoever dies without close() does not wait for a disk.
        self._thread = threading.Thread(target=read, name=f"images of round {first_round}", daemon=True)
        self._thread.start()

    def covers(self, first_round: int, rounds: int) -> bool:
        """Return whether these rounds begin where the reading begins, and are no more."""
        return self._first_round == first_round and self._rounds >= rounds

    def result(self) -> Examples:
        """Wait for the images and return them; raises what reading raised."""
        self._thread.join()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome

    def cancel(self) -> None:
        """End the reading after its chunk and wait for that."""
        self._stop.set()
        if self._thread is not threading.current_thread():  # garbage may be collected in any thread
            self._thread.join()


def _cancel(readings: list[_Reading]) -> None:
    while readings:
        readings.pop().cancel()


def aligned_empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array of any content that TensorFlow can take over as it is."""
    wanted = np.dtype(dtype)
    size = int(np.prod(shape)) * wanted.itemsize
    memory = np.empty(size + ALIGNMENT_BYTES, np.uint8)
    skip = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[skip : skip + size].view(wanted).reshape(shape)


def shared_tensor(array: npt.NDArray[Any]) -> tf.Tensor:
    """Return a tensor on the CPU that shares the memory of `array`, or that of a copy where it is not aligned or read-only.

    tf.constant would copy, and a dataset, or two calls, would be in memory twice. Nothing may be written to `array` any more.
    """
    if array.ctypes.data % ALIGNMENT_BYTES or not (array.flags.c_contiguous and array.flags.writeable):
        copy = aligned_empty(array.shape, array.dtype)
        copy[...] = array
        array = copy
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def counts_by_label(histogram: Mapping[str, int], names: list[str]) -> dict[int, int] | None:
    """Return ingest's histogram, which is by name where labels have names, by label; None where a name may be two labels."""
    numbers = {text: int(text) for text in [*histogram, *names] if text.isdecimal()}
    plain = len(set(names)) == len(names) and "unlabelled" not in names
    if not plain or any(numbers.get(name, 0) >= len(names) for name in names):
        return None
    labels = {"unlabelled": NO_LABEL, **numbers, **{name: label for label, name in enumerate(names)}}
    return {labels[text]: number for text, number in histogram.items()} if histogram.keys() <= labels.keys() else None


def counts_by_class(counts: Mapping[int, int], named: int) -> list[int]:
    """Return the number of images of each class, empty where an image has no label; `named` classes are there at least.

    Raises ArtifactError where labels go beyond MAX_CLASSES.
    """
    if not counts or NO_LABEL in counts:
        return []
    classes = max(named, max(counts) + 1)
    if classes > MAX_CLASSES:
        raise ArtifactError(
            f"The labels go up to {classes - 1}, at most {MAX_CLASSES} classes can be told apart.",
            "Number the classes from 0, or train without labels.",
        )
    return [counts.get(label, 0) for label in range(classes)]


def _tally(labels: npt.NDArray[np.int32]) -> dict[int, int]:
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
