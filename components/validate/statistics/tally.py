"""Counts of a set of images: integers only, so that adding tallies is exact, associative and commutative.

The same images give the same tally in any order, from any number of shards and workers. Means, deviations, histograms and
the noise of each are computed from it (statistics.py, drift.py).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.artifacts import FileEntry
from components.dataset.records import HEADER_BYTES, Record, decode_example, scan_tfrecord

LEVELS = 256
IMAGE_BUCKETS = 64  # of images, by brightness (4 grey levels a bucket) and by contrast (2 grey levels a bucket)
CHANNEL_BUCKETS = 32  # of pixels (8 grey levels a bucket)
WORST = 8  # images of each kind
SAMPLED = 512  # images whose features are compared with the next snapshot's
CELL = 2  # a cell spans 2 × 2 buckets of brightness and contrast; one image of each cell is named
CELLS_A_SIDE = IMAGE_BUCKETS // CELL
BATCH_BYTES = 1_000_000  # of pixels; counting takes 8 bytes for each level, so about 10 times as much memory
ARRAYS = ("levels", "products", "brightness", "contrast")

Ints = npt.NDArray[np.int64]
# Split, file, its size and digest, image size, channels, validate.blank_deviation.
ShardTask = tuple[str, str, int, str, int, int, float]


class RecordRef(NamedTuple):
    """Where an image is stored: its id, the file in the dataset, and the first byte of its record."""

    id: str
    file: str
    byte: int


class PixelCounts(NamedTuple):
    """For each image: pixels of each level [N, C, 256], the sum of the levels [N], and (pixels × standard deviation)² [N]."""

    levels: Ints
    sums: Ints
    scaled_variances: Ints


@dataclass
class Tally:
    """Counts of a set of images; `products` sums n_i × n_j over images, with n the pixels in each bucket of a channel."""

    channels: int
    count: int = 0
    blank: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    levels: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    products: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    brightness: Ints = field(default_factory=lambda: np.zeros(IMAGE_BUCKETS, np.int64))
    contrast: Ints = field(default_factory=lambda: np.zeros(IMAGE_BUCKETS, np.int64))
    worst: dict[str, list[tuple[int, str, str, int]]] = field(default_factory=dict)  # kind: (score, id, file, byte)
    cells: dict[int, tuple[int, tuple[str, str, int]]] = field(default_factory=dict)  # cell: images, (id, file, byte)
    sample: list[tuple[str, str, int]] = field(default_factory=list)  # (digest of id, file, byte), the smallest digests

    def __post_init__(self) -> None:
        """Size the arrays that depend on the number of channels."""
        if not self.levels.size:
            self.levels = np.zeros((self.channels, LEVELS), np.int64)
            self.products = np.zeros((self.channels, CHANNEL_BUCKETS, CHANNEL_BUCKETS), np.int64)

    def __add__(self, other: Tally) -> Tally:
        """Return the tally of both sets of images."""
        summed: dict[str, Any] = {
            name: getattr(self, name) + getattr(other, name) for name in ("count", "blank", "labels", *ARRAYS)
        }
        return Tally(
            channels=self.channels,
            **summed,
            worst=_merged(self.worst, other.worst, lambda a, b: sorted([*a, *b])[:WORST]),
            cells=_merged(self.cells, other.cells, lambda a, b: (a[0] + b[0], min(a[1], b[1]))),
            sample=sorted([*self.sample, *other.sample])[:SAMPLED],
        )

    def to_json(self) -> str:
        """Return the tally as JSON, which workers exchange and snapshots store."""
        return json.dumps(vars(self), default=np.ndarray.tolist, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Tally:
        """Read the result of `to_json`. Raises ValueError, TypeError or LookupError for any other text."""
        values: dict[str, Any] = json.loads(text)
        arrays: dict[str, Any] = {name: np.array(values[name], np.int64) for name in ARRAYS}
        labels = Counter({int(label): int(count) for label, count in values["labels"].items()})
        worst = {kind: [(*item,) for item in items] for kind, items in values["worst"].items()}
        cells = {int(cell): (count, (*ref,)) for cell, (count, ref) in values["cells"].items()}
        sample = [(*item,) for item in values["sample"]]
        plain = {name: values[name] for name in ("channels", "count", "blank")}
        return cls(**plain, **arrays, labels=labels, worst=worst, cells=cells, sample=sample)


def tally_records(records: Sequence[Record], refs: Sequence[RecordRef], blank_deviation: float) -> Tally:
    """Return the tally of records with images of one shape, at least one.

    An image is near-blank if the standard deviation of its pixels is below `blank_deviation` grey levels.
    """
    images = np.stack([record.image for record in records])
    channels, pixels = images.shape[-1], images[0].size
    counts = count_pixels(images)
    deviations = np.sqrt(counts.scaled_variances) / pixels
    brightness = counts.sums * IMAGE_BUCKETS // (LEVELS * pixels)
    contrast = np.minimum(IMAGE_BUCKETS - 1, (deviations / 2).astype(np.int64))
    buckets = counts.levels.reshape(len(images), channels, CHANNEL_BUCKETS, -1).sum(axis=3)
    scores = {"blankest": counts.scaled_variances, "darkest": counts.sums, "brightest": -counts.sums}
    cells: dict[int, tuple[int, tuple[str, str, int]]] = {}
    for cell, ref in zip((brightness // CELL * CELLS_A_SIDE + contrast // CELL).tolist(), refs, strict=True):
        count, first = cells.get(cell, (0, ref))
        cells[cell] = (count + 1, min(first, ref))
    return Tally(
        channels=channels,
        count=len(images),
        blank=int((deviations < blank_deviation).sum()),
        labels=Counter(record.label for record in records),
        levels=counts.levels.sum(axis=0),
        products=np.einsum("nci,ncj->cij", buckets, buckets),
        brightness=np.bincount(brightness, minlength=IMAGE_BUCKETS),
        contrast=np.bincount(contrast, minlength=IMAGE_BUCKETS),
        worst={
            kind: sorted((int(score), *ref) for score, ref in zip(values, refs, strict=True))[:WORST]
            for kind, values in scores.items()
        },
        cells=cells,
        sample=sorted((id_digest(ref.id), ref.file, ref.byte) for ref in refs)[:SAMPLED],
    )


def tally_shard(task: ShardTask) -> Tally:
    """Return the tally of one file, whose name is recorded without its folder; memory does not grow with the file."""
    _, file, count, sha256, size, channels, blank_deviation = task
    batches = read_batches(Path(file), FileEntry(bytes=count, sha256=sha256), size, channels)
    return sum((tally_records(records, refs, blank_deviation) for records, refs in batches), Tally(channels))


def read_batches(file: Path, entry: FileEntry, size: int, channels: int) -> Iterator[tuple[list[Record], list[RecordRef]]]:
    """Yield the records of a shard in batches of about BATCH_BYTES. Raises ArtifactError when the shard is damaged."""
    records: list[Record] = []
    refs: list[RecordRef] = []
    most = max(1, BATCH_BYTES // (size * size * channels))
    for start, serialized in scan_tfrecord(file, entry):
        records.append(decode_example(serialized, size, channels))
        refs.append(RecordRef(records[-1].id, file.name, start - HEADER_BYTES))
        if len(records) == most:
            yield records, refs
            records, refs = [], []
    if records:
        yield records, refs


def count_pixels(images: npt.NDArray[np.uint8]) -> PixelCounts:
    """Return the number of pixels of each level for each image and channel, and their moments, for uint8 [N, H, W, C]."""
    count, channels = len(images), images.shape[-1]
    offsets = (np.arange(count * channels, dtype=np.int32) * LEVELS).reshape(count, 1, 1, channels)
    flat = np.bincount((images + offsets).ravel(), minlength=count * channels * LEVELS)
    levels = flat.reshape(count, channels, LEVELS)
    all_channels, values = levels.sum(axis=1), np.arange(LEVELS)
    sums, squares = all_channels @ values, all_channels @ values**2
    return PixelCounts(levels, sums, images[0].size * squares - sums**2)


def id_digest(id: str) -> str:
    """Return the digest that orders images for the sample; it depends on the id alone, so the sample is reproducible."""
    return hashlib.blake2b(id.encode(), digest_size=8).hexdigest()


def _merged(ours: dict[Any, Any], theirs: dict[Any, Any], merge: Callable[[Any, Any], Any]) -> dict[Any, Any]:
    both = ours.keys() & theirs.keys()
    return {**ours, **theirs, **{key: merge(ours[key], theirs[key]) for key in both}}
