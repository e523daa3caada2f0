"""Both sides at one size: decoded, cropped and resized by ingest's code; REAL is split as ingest would split it."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.errors import ConfigError, DataRejectedError
from components.dataset.records import ImageSet
from components.evaluate.scored import RealImages
from components.evaluate.scores import MIN_HELD_OUT_IMAGES, MIN_TRAIN_IMAGES
from components.ingest.beam.chunk_files import ENTRY, shard_of
from components.ingest.beam.shards import held_out
from components.ingest.config import Decoding, IngestConfig
from components.ingest.pixels.crop import provenance
from components.ingest.pixels.decode import Decoded, decode, pillow_prepared
from components.ingest.sources.chunks import SPLIT_CODES, CannotReadError, RawImage
from components.score.sources import AT_ONCE, Images, Raw, Shape, Source

INGEST = IngestConfig()
MIN_FAKE_IMAGES = 100  # as for evaluate.samples
SHOWN_FILES = 3

Description = dict[str, Any]


class Prepared(NamedTuple):
    """All readable images of a source, uint8 [N, S, S, C], with pixel digests, labels and splits, and its description."""

    images: Images
    digests: list[bytes]
    labels: npt.NDArray[np.int64]
    splits: list[int]
    description: Description


def common_shape(sources: Sequence[Source], image_size: int, channels: int) -> tuple[int, int]:
    """Return the size in pixels and the number of channels at which images are scored; 0: that of the images.

    Raises ConfigError unless all images have one square size and both sides the same channels.
    """
    if image_size and channels:
        return image_size, channels
    with pillow_prepared(INGEST.max_pixels):
        shapes = {source.side: source.shapes() for source in sources}
    for source in sources:
        if not shapes[source.side]:
            raise _no_images(source)
    colours = {side: max(channels for _, _, channels in found) for side, found in shapes.items()}
    if not channels and len(set(colours.values())) > 1:
        words = ["grey" if colours[source.side] == 1 else "in colour" for source in sources]
        raise ConfigError(
            f"REAL is {words[0]} and FAKE is {words[1]}: scores need the same channels.",
            "Use --channels 1 to compare both in grey, or --channels 3 in RGB.",
        )
    sizes = {(width, height) for found in shapes.values() for width, height, _ in found}
    if not image_size and (len(sizes) > 1 or len(set(next(iter(sizes)))) > 1):
        shown = " and ".join(f"{side} has images of {size_text(found)}" for side, found in shapes.items())
        raise ConfigError(
            f"{shown} pixels: scores need one square size.",
            f"Use --image-size {min(map(min, sizes))}, which resizes the centre square of each image as ingest does.",
        )
    return image_size or next(iter(sizes))[0], channels or max(colours.values())


def size_text(shapes: Counter[Shape]) -> str:
    """Return the size of images, or the smallest and the largest, as text."""
    sizes = sorted({(width, height) for width, height, _ in shapes}, key=lambda size: size[0] * size[1])
    texts = [f"{width}×{height}" for width, height in sizes]
    return texts[0] if len(texts) == 1 else f"{len(texts)} sizes from {texts[0]} to {texts[-1]}"


def prepare(source: Source, decoding: Decoding, file: Path) -> Prepared:
    """Decode all images of a source into an array in `file`. Raises DataRejectedError if too many are unreadable."""
    size, channels = decoding.image_size, decoding.channels
    images = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(source.total, size, size, channels))
    unread: list[str] = []
    digests: list[bytes] = []
    labels: list[int] = []
    splits: list[int] = []
    sizes: Counter[Shape] = Counter()

    def decoded(image: Raw) -> Decoded | str:
        if not isinstance(image, RawImage):
            return f"{image.id} ({image.reason})"
        try:
            return decode(image.content, decoding)
        except CannotReadError as error:
            return f"{image.id} ({error.reason})"

    with pillow_prepared(decoding.max_pixels), ThreadPoolExecutor(os.cpu_count()) as pool:
        raw = source.read()
        while batch := list(itertools.islice(raw, AT_ONCE)):  # so that few files are in memory
            for image, found in zip(batch, pool.map(decoded, batch), strict=True):
                if isinstance(found, str) or not isinstance(image, RawImage):
                    unread.append(str(found))
                    continue
                images[len(digests)] = np.frombuffer(found.pixels, np.uint8).reshape(size, size, channels)
                digests.append(found.digest)
                labels.append(image.label)
                splits.append(SPLIT_CODES.index(image.split))
                sizes[found.width, found.height, channels] += 1
    if not digests:
        raise _no_images(source)
    if len(unread) > INGEST.max_quarantine_fraction * source.total:
        share = f"{len(unread) / source.total:.1%}, allowed {INGEST.max_quarantine_fraction:.1%}"
        raise DataRejectedError(
            f"{len(unread)} of {source.total} files of {source.side} ({source.location}) could not be read as images ({share}):"
            f" {_examples(unread)}.",
            "Repair or remove them.",
        )
    native = set(sizes) == {(size, size, channels)}
    description = describe(source, len(digests), len(set(digests)), size_text(sizes), decoding, native) | {
        "left_out": len(unread)
    }
    return Prepared(images[: len(digests)], digests, np.array(labels), splits, description)


def describe(source: Source, images: int, different: int, sizes: str, decoding: Decoding, native: bool) -> Description:
    """Return what a side consists of, as plain JSON."""
    square = f"{decoding.image_size}×{decoding.image_size}×{decoding.channels}"
    return {
        "location": source.location,
        "kind": source.kind,
        "images": images,
        "different": different,
        "sizes": sizes,
        "scored_at": square,
        "resize": f"none: native {decoding.image_size}×{decoding.image_size}" if native else provenance(decoding),
        "left_out": 0,
    }


def prepare_fake(source: Source, decoding: Decoding, file: Path, samples: int, seed: int) -> tuple[Images, Description]:
    """Return the images of FAKE, at most `samples` of them (0: all; those of files at random), and their description.

    Raises DataRejectedError if there are too few.
    """
    prepared = prepare(source, decoding, file)
    count = len(prepared.images)
    if count < MIN_FAKE_IMAGES:
        raise DataRejectedError(
            f"FAKE ({source.location}) has {count} images; scores need at least {MIN_FAKE_IMAGES}.", "Name more images."
        )
    if not 0 < samples < count:
        return prepared.images, prepared.description
    rows = np.sort(np.random.default_rng(seed).choice(count, samples, replace=False))
    different = len({prepared.digests[row] for row in rows})
    return prepared.images[rows], prepared.description | {"images": samples, "different": different}


def prepare_real(source: Source, decoding: Decoding, file: Path) -> tuple[RealImages, Description]:
    """Return REAL as the pipeline would use it, and its description.

    A dataset artifact keeps its splits. Other images go through what ingest does: one of equal images is kept, and a hash of
    the pixels decides which are held out. Raises DataRejectedError if there are too few.
    """
    square = (decoding.image_size, decoding.image_size, decoding.channels)
    if source.splits and source.splits[0].images.shape[1:] == square:
        text = describe(source, source.total, source.total, size_text(source.shapes()), decoding, native=True)
        return _enough(source, RealImages(*source.splits, source.digest, source.label_names), text)
    prepared = prepare(source, decoding, file)
    order, in_eval = _as_ingested(prepared)
    ordered = np.lib.format.open_memmap(
        file.with_suffix(".ordered.npy"), mode="w+", dtype=np.uint8, shape=(len(order), *square)
    )
    for start in range(0, len(order), AT_ONCE):  # indexing it as a whole would take as much memory as all images
        ordered[start : start + AT_ONCE] = prepared.images[order[start : start + AT_ONCE]]
    count, labels = len(order) - int(in_eval.sum()), prepared.labels[order]
    digest = hashlib.sha256(b"".join(prepared.digests[at] for at in order) + labels.tobytes() + repr((square, count)).encode())
    train, held = (ImageSet(ordered[rows], labels[rows], ()) for rows in (slice(count), slice(count, None)))
    real = RealImages(train, held, digest.hexdigest(), source.label_names)
    return _enough(source, real, prepared.description | {"images": len(order)})


def _as_ingested(prepared: Prepared) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Return which images ingest keeps, training images first, each split in its order; and which of them are held out."""
    entries = np.zeros(len(prepared.digests), ENTRY)
    digests = np.frombuffer(b"".join(prepared.digests), ">u8").reshape(-1, 2)
    entries["high"], entries["low"], entries["split"] = digests[:, 0], digests[:, 1], prepared.splits
    in_eval = held_out(entries, INGEST.eval_fraction)
    shards = np.array([shard_of(digest, INGEST.shards) for digest in prepared.digests])
    _, first = np.unique(digests, axis=0, return_index=True)
    order = np.lexsort((entries["low"], entries["high"], shards, in_eval))
    order = order[np.isin(order, first)]
    return order, in_eval[order]


def _enough(source: Source, real: RealImages, description: Description) -> tuple[RealImages, Description]:
    train, held = len(real.train.images), len(real.held_out.images)
    if train < MIN_TRAIN_IMAGES or held < MIN_HELD_OUT_IMAGES:
        raise DataRejectedError(
            f"REAL ({source.location}) has {source.total} images, of which {train + held} are different: {train} to compare "
            f"with and {held} held out; scores need at least {MIN_TRAIN_IMAGES} and {MIN_HELD_OUT_IMAGES}.",
            "Name at least 100 different images.",
        )
    return real, description


def _no_images(source: Source) -> DataRejectedError:
    examples = _examples([image.id for image in itertools.islice(source.read(), SHOWN_FILES + 1)])
    return DataRejectedError(
        f"None of the {source.total} files of {source.side} ({source.location}) is a readable image: {examples}.",
        "Name a folder or an archive of images.",
    )


def _examples(unread: list[str]) -> str:
    return ", ".join(unread[:SHOWN_FILES]) + (", …" if len(unread) > SHOWN_FILES else "")
