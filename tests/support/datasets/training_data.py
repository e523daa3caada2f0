"""A small dataset artifact of real digits, and the validation artifact that train needs."""

from __future__ import annotations

from pathlib import Path

from components.dataset.records import ImageSet
from tests.support.datasets.snapshots import digits
from tests.support.datasets.tiny_artifacts import write_images, write_validation


def write_digits(folder: Path, train: int = 100, held_out: int = 30, labelled: bool = True) -> tuple[Path, Path]:
    """Write both artifacts below `folder`; return their paths."""
    images, labels = digits()
    ids = tuple(f"digits/{index}" for index in range(len(images)))
    rows = {"train": slice(train), "eval": slice(train, train + held_out)}
    parts = {split: ImageSet(images[part], labels[part], ids[part]) for split, part in rows.items()}
    dataset = write_images(folder / "dataset", parts, labels=labelled)
    return dataset, write_validation(folder / "validation", dataset)
