"""A split that is read from its TFRecords: the images of a host call are read while the previous call is computed.

The reading thread is written here because it must not delay the end of the process: the threads of concurrent.futures are
joined at exit (test_a_process_that_ends_without_close_ends_at_once).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.common.artifacts import Manifest
from components.dataset.records import NO_LABEL
from components.train.data.batches import Order, RoundBatches, counts_by_class, shared_tensor
from components.train.data.reader import ImageReader, LabelledImages


class Streamed:
    """A split that is read from its TFRecords; a Source.

    While a call is computed, a thread reads the images of the next one, so two calls are in memory, each of rounds · n_critic
    · B · H · W · C bytes. The next call is expected to start where this one ends, with at most as many rounds. Any other
    call is read when `take` is called.
    """

    def __init__(self, reader: ImageReader, manifest: Manifest, *, seed: int, n_critic: int, batch_size: int) -> None:
        self.count, self.shape = len(reader.index), reader.shape
        self.bytes_per_round = n_critic * batch_size * (reader.image_bytes + 4)
        self._reader, self._manifest = reader, manifest
        self._order = Order(seed, self.count, n_critic, batch_size)
        self._ahead: list[_Reading] = []  # at most one
        # Also runs when the interpreter exits: a thread that is inside TensorFlow at that time aborts the process.
        self._end = weakref.finalize(self, _cancel, self._ahead)

    @cached_property
    def label_counts(self) -> list[int]:
        """Number of images of each class, from the manifest if it counts each image once, else from all records."""
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

    def batch(self, taken: tuple[tf.Tensor, ...], offset: tf.Tensor) -> RoundBatches:
        """Return the images of a round."""
        rows = [self._order.n_critic, self._order.batch_size]
        images, labels = taken
        return RoundBatches(tf.ensure_shape(images[offset], [*rows, *self.shape]), tf.ensure_shape(labels[offset], rows))

    def close(self) -> None:
        """Stop the thread after its current chunk, and wait for it."""
        self._end()


class _Reading:
    """A thread that reads the images of a call."""

    def __init__(self, reader: ImageReader, order: Order, first_round: int, rounds: int) -> None:
        self._first_round, self._rounds = first_round, rounds
        self._stop = threading.Event()
        self._outcome: LabelledImages | BaseException = RuntimeError("not read yet")

        def read() -> None:
            try:
                self._outcome = reader.read(order.indices(first_round, rounds).ravel(), self._stop)
            except BaseException as error:  # noqa: BLE001 - result() raises it in the calling thread
                self._outcome = error

        # A daemon, so that a process that ends without close() does not wait for the disk.
        self._thread = threading.Thread(target=read, name=f"images of round {first_round}", daemon=True)
        self._thread.start()

    def covers(self, first_round: int, rounds: int) -> bool:
        """Return whether these rounds start where the reading starts, and are not more."""
        return self._first_round == first_round and self._rounds >= rounds

    def result(self) -> LabelledImages:
        """Wait for the images and return them; raises what reading raised."""
        self._thread.join()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome

    def cancel(self) -> None:
        """Stop the thread after its current chunk, and wait for it."""
        self._stop.set()
        if self._thread is not threading.current_thread():  # garbage collection may run in any thread, this one included
            self._thread.join()


def _cancel(readings: list[_Reading]) -> None:
    while readings:
        readings.pop().cancel()


def counts_by_label(histogram: Mapping[str, int], names: list[str]) -> dict[int, int] | None:
    """Return ingest's histogram with labels as keys, in place of their names; None if a name could mean two labels."""
    numbers = {text: int(text) for text in [*histogram, *names] if text.isdecimal()}
    plain = len(set(names)) == len(names) and "unlabelled" not in names
    if not plain or any(numbers.get(name, 0) >= len(names) for name in names):
        return None
    labels = {"unlabelled": NO_LABEL, **numbers, **{name: label for label, name in enumerate(names)}}
    return {labels[text]: number for text, number in histogram.items()} if histogram.keys() <= labels.keys() else None
