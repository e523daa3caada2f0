"""A split that stays in its TFRecords: each host call takes its images along, read while the call before is computed."""

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
from components.train.data.batches import Batch, Order, counts_by_class, shared_tensor
from components.train.data.reader import Examples, ImageReader


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


def counts_by_label(histogram: Mapping[str, int], names: list[str]) -> dict[int, int] | None:
    """Return ingest's histogram, which is by name where labels have names, by label; None where a name may be two labels."""
    numbers = {text: int(text) for text in [*histogram, *names] if text.isdecimal()}
    plain = len(set(names)) == len(names) and "unlabelled" not in names
    if not plain or any(numbers.get(name, 0) >= len(names) for name in names):
        return None
    labels = {"unlabelled": NO_LABEL, **numbers, **{name: label for label, name in enumerate(names)}}
    return {labels[text]: number for text, number in histogram.items()} if histogram.keys() <= labels.keys() else None
