"""What is counted of a set of images: whole numbers only, so that merging is exact, associative and commutative.

Whatever the shards, the workers and the order, the same images give the same tally. Means, deviations, histograms and the
noise of each follow from it (statistics.py, drift.py).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.dataset.records import HEADER_BYTES, Record, decode_example, read_tfrecord

LEVELS = 256
LOOK_BUCKETS = 64  # of an image's brightness (4 grey levels each) and contrast (2 grey levels each)
CHANNEL_BUCKETS = 32  # of pixels, 8 grey levels each
SIZE_BUCKETS_PER_OCTAVE = 8
WORST = 8  # images kept of each kind
SAMPLED = 512  # images of a snapshot that are kept for the distance of features
CELL = 2  # brightness and contrast buckets a side of a cell, of which one image is kept for «most unlike»
CELLS_A_SIDE = LOOK_BUCKETS // CELL
BATCH_BYTES = 1_000_000  # of pixels: counting takes 8 bytes a level, so about 10 times as much memory
FOOTER_BYTES = 4

Ints = npt.NDArray[np.int64]
Shard = tuple[str, str, int, int, float]  # split, file, image size, channels, validate.blank_deviation
Place = tuple[str, int]  # a file of the dataset, and the byte in it where the record begins


class Batch(NamedTuple):
    """Some records: images uint8 [N, H, W, C]; labels, ids, places and the sources' heights and widths (0: unknown), N each."""

    images: npt.NDArray[np.uint8]
    labels: Sequence[int]
    ids: Sequence[str]
    places: Sequence[Place]
    heights: Sequence[int]
    widths: Sequence[int]


class Looks(NamedTuple):
    """One image each: the number of pixels of each level [N, C, 256], their sum, and (pixels × deviation)² [N]."""

    levels: Ints
    sums: Ints
    scaled_variances: Ints


@dataclass
class Tally:
    """Counts of a set of images; `products` are sums over images of n_i × n_j, n the pixels in each channel bucket."""

    channels: int
    count: int = 0
    blank: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    levels: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    products: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    brightness: Ints = field(default_factory=lambda: np.zeros(LOOK_BUCKETS, np.int64))
    contrast: Ints = field(default_factory=lambda: np.zeros(LOOK_BUCKETS, np.int64))
    heights: Counter[int] = field(default_factory=Counter)  # by bucket, see size_bucket
    widths: Counter[int] = field(default_factory=Counter)
    aspects: Counter[int] = field(default_factory=Counter)  # by the nearest eighth of an octave of width / height
    extremes: dict[str, list[int]] = field(default_factory=dict)  # height, width: lowest, highest, sum, sum of squares
    worst: dict[str, list[tuple[int, str, str, int]]] = field(default_factory=dict)  # kind: (score, id, file, byte)
    cells: dict[int, tuple[int, tuple[str, str, int]]] = field(default_factory=dict)  # cell: images, (id, file, byte)
    sample: list[tuple[str, str, int]] = field(default_factory=list)  # (digest of id, file, byte), the smallest digests

    def __post_init__(self) -> None:
        """Give the arrays that depend on the channels their sizes."""
        if not self.levels.size:
            self.levels = np.zeros((self.channels, LEVELS), np.int64)
            self.products = np.zeros((self.channels, CHANNEL_BUCKETS, CHANNEL_BUCKETS), np.int64)

    def add(self, batch: Batch, blank_deviation: float) -> None:
        """Count a batch; an image that deviates by less than `blank_deviation` grey levels from its mean is near-blank."""
        looks = examine(batch.images)
        pixels = batch.images[0].size
        buckets = looks.levels.reshape(len(batch.images), self.channels, CHANNEL_BUCKETS, -1).sum(axis=3)
        deviations = np.sqrt(looks.scaled_variances) / pixels
        bright = looks.sums * LOOK_BUCKETS // (LEVELS * pixels)
        contrast = np.minimum(LOOK_BUCKETS - 1, (deviations / 2).astype(np.int64))
        self.count += len(batch.images)
        self.blank += int((deviations < blank_deviation).sum())
        self.labels.update(batch.labels)
        self.levels += looks.levels.sum(axis=0)
        self.products += np.einsum("nci,ncj->cij", buckets, buckets)
        self.brightness += np.bincount(bright, minlength=LOOK_BUCKETS)
        self.contrast += np.bincount(contrast, minlength=LOOK_BUCKETS)
        self._add_sizes(batch)
        self._add_worst(batch, looks, bright // CELL * CELLS_A_SIDE + contrast // CELL)

    def _add_sizes(self, batch: Batch) -> None:
        known = [(height, width) for height, width in zip(batch.heights, batch.widths, strict=True) if height and width]
        for name, counter, sizes in (
            ("height", self.heights, [height for height, _ in known]),
            ("width", self.widths, [width for _, width in known]),
        ):
            counter.update(map(size_bucket, sizes))
            if sizes:
                new = [min(sizes), max(sizes), sum(sizes), sum(size * size for size in sizes)]
                self.extremes[name] = _merged_extremes(self.extremes.get(name), new)
        self.aspects.update(round(SIZE_BUCKETS_PER_OCTAVE * math.log2(width / height)) for height, width in known)

    def _add_worst(self, batch: Batch, looks: Looks, cells: Ints) -> None:
        named = [(id, *place) for id, place in zip(batch.ids, batch.places, strict=True)]
        scores = {"blankest": looks.scaled_variances, "darkest": looks.sums, "brightest": -looks.sums}
        for kind, values in scores.items():
            new = [(int(value), *name) for value, name in zip(values, named, strict=True)]
            self.worst[kind] = sorted([*self.worst.get(kind, []), *new])[:WORST]
        for cell, name in zip(cells.tolist(), named, strict=True):
            count, first = self.cells.get(cell, (0, name))
            self.cells[cell] = (count + 1, min(first, name))
        drawn = [(id_digest(id), file, byte) for id, file, byte in named]
        self.sample = sorted([*self.sample, *drawn])[:SAMPLED]

    def __add__(self, other: Tally) -> Tally:
        """Return the tally of both sets of images."""
        kinds = sorted({*self.worst, *other.worst})
        return Tally(
            channels=self.channels,
            count=self.count + other.count,
            blank=self.blank + other.blank,
            labels=self.labels + other.labels,
            levels=self.levels + other.levels,
            products=self.products + other.products,
            brightness=self.brightness + other.brightness,
            contrast=self.contrast + other.contrast,
            heights=self.heights + other.heights,
            widths=self.widths + other.widths,
            aspects=self.aspects + other.aspects,
            extremes=_merged(self.extremes, other.extremes, _merged_extremes),
            worst={kind: sorted([*self.worst.get(kind, []), *other.worst.get(kind, [])])[:WORST] for kind in kinds},
            cells=_merged(self.cells, other.cells, lambda a, b: (a[0] + b[0], min(a[1], b[1]))),
            sample=sorted([*self.sample, *other.sample])[:SAMPLED],
        )

    def to_json(self) -> str:
        """Return the tally as JSON: what crosses from worker to worker, and what a snapshot keeps."""
        plain = {name: _plain(value) for name, value in sorted(vars(self).items())}
        return json.dumps(plain, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Tally:
        """Read what `to_json` wrote. Raises ValueError, TypeError or LookupError where it is something else."""
        values: dict[str, Any] = json.loads(text)
        arrays: dict[str, Any] = {
            name: np.array(values[name], np.int64) for name in ("levels", "products", "brightness", "contrast")
        }
        counters: dict[str, Any] = {
            name: Counter({int(key): int(number) for key, number in values[name].items()})
            for name in ("labels", "heights", "widths", "aspects")
        }
        worst = {kind: [(*item,) for item in items] for kind, items in values["worst"].items()}
        cells = {int(cell): (count, (*name,)) for cell, (count, name) in values["cells"].items()}
        sample = [(*item,) for item in values["sample"]]
        kept = {name: values[name] for name in ("channels", "count", "blank", "extremes")}
        tally = cls(**kept, **arrays, **counters, worst=worst, cells=cells, sample=sample)
        expected = cls(tally.channels)
        if any(getattr(expected, name).shape != array.shape for name, array in arrays.items()):
            raise ValueError(f"arrays of {[list(array.shape) for array in arrays.values()]} are no tally")
        return tally


def tally_shard(shard: Shard) -> Tally:
    """Return the tally of one file, whose name is kept without its folder; memory does not grow with the file."""
    _, file, size, channels, blank_deviation = shard
    tally = Tally(channels)
    for batch in read_batches(Path(file), size, channels):
        tally.add(batch, blank_deviation)
    return tally


def read_batches(file: Path, size: int, channels: int) -> Iterator[Batch]:
    """Yield the records of a shard in batches of about BATCH_BYTES. Raises ArtifactError when it is damaged."""
    records: list[Record] = []
    places: list[Place] = []
    byte, most = 0, max(1, BATCH_BYTES // (size * size * channels))
    for serialized in read_tfrecord(file):
        records.append(decode_example(serialized, size, channels))
        places.append((file.name, byte))
        byte += HEADER_BYTES + len(serialized) + FOOTER_BYTES
        if len(records) == most:
            yield _batch(records, places)
            records, places = [], []
    if records:
        yield _batch(records, places)


def _batch(records: list[Record], places: list[Place]) -> Batch:
    images, labels, ids = (list(values) for values in zip(*((r.image, r.label, r.id) for r in records), strict=True))
    heights, widths = ([int(getattr(record, name)) for record in records] for name in ("height", "width"))
    return Batch(np.stack(images), labels, ids, places, heights, widths)


def examine(images: npt.NDArray[np.uint8]) -> Looks:
    """Return how many pixels of each image and channel have each level, and what follows from that, for uint8 [N, H, W, C]."""
    count, channels = len(images), images.shape[-1]
    offsets = (np.arange(count * channels, dtype=np.int32) * LEVELS).reshape(count, 1, 1, channels)
    flat = np.bincount((images + offsets).ravel(), minlength=count * channels * LEVELS)
    levels = flat.reshape(count, channels, LEVELS)
    everything, values = levels.sum(axis=1), np.arange(LEVELS)
    sums, squares = everything @ values, everything @ values**2
    return Looks(levels, sums, images[0].size * squares - sums**2)


def size_bucket(size: int) -> int:
    """Return the bucket of a height or width in pixels: eight an octave."""
    return int(SIZE_BUCKETS_PER_OCTAVE * math.log2(size))


def id_digest(id: str) -> str:
    """Return what a sample is drawn by: a function of the id alone, so that the same images are drawn again."""
    return hashlib.blake2b(id.encode(), digest_size=8).hexdigest()


def total(tallies: Iterable[Tally], channels: int) -> Tally:
    """Return the tally of all."""
    return sum(tallies, Tally(channels))


def _merged(ours: dict[Any, Any], theirs: dict[Any, Any], merge: Any) -> dict[Any, Any]:
    both = ours.keys() & theirs.keys()
    return {**ours, **theirs, **{key: merge(ours[key], theirs[key]) for key in both}}


def _merged_extremes(ours: list[int] | None, theirs: list[int]) -> list[int]:
    if ours is None:
        return theirs
    return [min(ours[0], theirs[0]), max(ours[1], theirs[1]), ours[2] + theirs[2], ours[3] + theirs[3]]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
