"""Datasets for the tests of validate, in the format of ingest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from components.common.artifacts import new_artifact
from components.dataset.records import Record, encode_example, shard_name, write_tfrecord
from components.ingest.config import IngestConfig

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def digits() -> tuple[Images, Labels]:
    """Return scikit-learn's 1,797 real digits: uint8 [N, 8, 8, 1], int64 [N]."""
    loaded = load_digits()
    return np.rint(loaded.images[..., None] * (255 / 16)).astype(np.uint8), loaded.target.astype(np.int64)


def write_snapshot(
    path: Path, images: Images, labels: Sequence[int] | Labels, names: Sequence[str] = tuple("0123456789"), shards: int = 2
) -> Path:
    """Write a dataset artifact in which every fifth image is held out."""
    held_out, labels = np.arange(len(images)) % 5 == 0, np.asarray(labels)
    splits = {"train": (images[~held_out], labels[~held_out]), "eval": (images[held_out], labels[held_out])}
    return write_splits(path, splits, names, shards)


def write_splits(
    path: Path, splits: Mapping[str, tuple[Images, Labels]], names: Sequence[str] = tuple("0123456789"), shards: int = 2
) -> Path:
    """Write a dataset artifact with these images and labels."""
    with new_artifact(path, "dataset", config=IngestConfig()) as artifact:
        for split, (images, labels) in splits.items():
            pairs = enumerate(zip(images, labels.tolist(), strict=True))
            records = [Record(image, label, f"{split}/{at}") for at, (image, label) in pairs]
            for shard in range(shards):
                write_tfrecord(artifact.path / shard_name(split, shard, shards), map(encode_example, records[shard::shards]))
            artifact.counts[split] = len(records)
            artifact.details |= {"image_size": images.shape[1], "channels": images.shape[3], "label_names": list(names)}
        count = sum(artifact.counts.values())
        artifact.counts |= {"read": count, "kept": count, "duplicate": 0, "quarantined": 0}
    return path


def without_label(images: Images, labels: Labels, label: int) -> tuple[Images, Labels]:
    """Return the images of all other labels, and their labels."""
    kept = labels != label
    return images[kept], labels[kept]


def brighter(images: Images, share: float = 0.1) -> Images:
    """Return images with every grey level multiplied by 1 + share, clipped at 255."""
    return np.minimum(255, np.rint(images * (1.0 + share))).astype(np.uint8)


def with_blanks(images: Images, share: float = 0.01) -> Images:
    """Return images of which a share is blank, each in a different grey."""
    changed = images.copy()
    numbers = np.arange(0, len(images), round(1 / share))
    changed[numbers] = (numbers % 256).astype(np.uint8)[:, None, None, None]
    return changed
