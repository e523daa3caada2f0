"""A small dataset artifact of real digits, and the validation artifact that train needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from components.common.artifacts import new_artifact
from components.dataset.records import NO_LABEL, Record, encode_example, shard_name, write_tfrecord
from components.ingest.config import IngestConfig
from components.validate.config import ValidateConfig


def write_digits(folder: Path, train: int = 100, held_out: int = 30, labelled: bool = True) -> tuple[Path, Path]:
    """Write both artifacts below `folder`; return their paths."""
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)[..., None]
    records = [
        Record(image, int(label) if labelled else NO_LABEL, f"digits/{i}")
        for i, (image, label) in enumerate(zip(images, digits.target, strict=True))
    ]
    parts = {"train": records[:train], "eval": records[train : train + held_out]}
    with new_artifact(folder / "dataset", "dataset", config=IngestConfig()) as writer:
        for split, part in parts.items():
            write_tfrecord(writer.path / shard_name(split, 0, 1), map(encode_example, part))
            writer.counts[split] = len(part)
        writer.details = {"image_size": 8, "channels": 1, "label_names": [str(label) for label in range(10 * labelled)]}
    inputs = {"dataset": folder / "dataset"}
    with new_artifact(folder / "validation", "validation", config=ValidateConfig(), inputs=inputs) as writer:
        (writer.path / "statistics.json").write_text("{}")
    return folder / "dataset", folder / "validation"
