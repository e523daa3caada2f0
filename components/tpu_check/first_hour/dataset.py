"""A small dataset artifact that needs no download: grey discs of random place and size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.common.artifacts import new_artifact
from components.dataset.records import Record, encode_example, shard_name, write_tfrecord
from components.ingest.config import IngestConfig
from components.validate.config import ValidateConfig

SIZE, TRAIN, HELD_OUT = 16, 512, 64
LABELS = ("dark", "bright")


def discs(count: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return images uint8 [count, SIZE, SIZE, 1] of one disc each, and whether it is bright [count]."""
    random = np.random.default_rng(seed)
    centre = random.uniform(4.0, SIZE - 5.0, (2, count, 1, 1))
    radius, bright = random.uniform(2.0, 5.0, (count, 1, 1)), random.integers(0, 2, (count, 1, 1))
    y, x = np.mgrid[:SIZE, :SIZE]
    inside = np.clip(radius - np.hypot(y - centre[0], x - centre[1]) + 0.5, 0.0, 1.0)  # with a soft edge
    return np.round(inside * (120 + 135 * bright)).astype(np.uint8)[..., None], bright.ravel()


def write_discs(folder: Path) -> tuple[Path, Path]:
    """Write a dataset and the validation that training asks for below `folder`; return their paths."""
    dataset, validation = folder / "dataset", folder / "validation"
    images, labels = discs(TRAIN + HELD_OUT, seed=0)
    records = [Record(*each, f"disc/{index}") for index, each in enumerate(zip(images, labels.tolist(), strict=True))]
    with new_artifact(dataset, "dataset", config=IngestConfig()) as writer:
        for split, part in {"train": records[:TRAIN], "eval": records[TRAIN:]}.items():
            write_tfrecord(writer.path / shard_name(split, 0, 1), map(encode_example, part))
            writer.counts[split] = len(part)
        writer.details = {"image_size": SIZE, "channels": 1, "label_names": list(LABELS)}
    with new_artifact(validation, "validation", config=ValidateConfig(), inputs={"dataset": dataset}) as writer:
        writer.write("statistics.json", b"{}")
    return dataset, validation
