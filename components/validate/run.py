"""The validate step: refuse a dataset that is not fit to train on, and record its statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.artifacts import Manifest, new_artifact, read_manifest, write_json
from components.errors import DataRejectedError
from components.progress import say
from components.records import SPLITS, read_split, read_tfrecord
from components.section import Summary
from components.validate.config import ValidateConfig
from components.validate.statistics import SplitStatistics, split_statistics

STATISTICS_FILE = "statistics.json"


class ValidateSummary(Summary):
    """What the dataset is: mean, deviation, minimum and maximum are those of the training split, in grey levels."""

    train_images: int
    eval_images: int
    image_size: int
    channels: int
    mean: list[float]
    deviation: list[float]
    minimum: int
    maximum: int
    labels: int


def run(config: ValidateConfig, *, dataset: Path, out: Path) -> ValidateSummary:
    """Check the dataset artifact `dataset` and write its statistics as the artifact `out`.

    Raises ArtifactError when a file of the dataset is missing or damaged, DataRejectedError when its counts do
    not match its records, and when a split is empty, too small or constant.
    """
    manifest = read_manifest(dataset, "dataset")
    refuse_miscounted(manifest.counts, count_records(dataset, manifest))
    refuse_small(config, manifest.counts)
    names = [str(name) for name in manifest.details["label_names"]]
    statistics = {}
    for split in SPLITS:
        images, labels, _ = read_split(dataset, split)
        statistics[split] = split_statistics(images, labels, names)
    refuse_constant(config, statistics)
    with new_artifact(out, "validation", config=config, inputs={"dataset": dataset}) as artifact:
        values = {split: part.model_dump(mode="json") for split, part in statistics.items()}
        write_json(artifact.path / STATISTICS_FILE, values)
        artifact.counts |= {split: part.count for split, part in statistics.items()}
    summary = _summary(statistics)
    say(
        f"{summary.train_images:,} images to train and {summary.eval_images:,} held out are fit: {summary.image_size}×"
        f"{summary.image_size}×{summary.channels}, mean {_levels(summary.mean)}, deviation {_levels(summary.deviation)}"
    )
    return summary


def count_records(dataset: Path, manifest: Manifest) -> dict[str, int]:
    """Return the number of records in the files of each split."""
    return {
        split: sum(1 for name in manifest.files if name.startswith(f"{split}-") for _ in read_tfrecord(dataset / name))
        for split in SPLITS
    }


def refuse_miscounted(claimed: Mapping[str, int], found: Mapping[str, int]) -> None:
    """Raise DataRejectedError when the manifest claims other numbers of images than the files hold."""
    wrong = [split for split in SPLITS if claimed.get(split) != found[split]]
    if wrong:
        parts = ", ".join(f"{claimed.get(split)} {split} images claimed and {found[split]} found" for split in wrong)
        raise DataRejectedError(f"The dataset's manifest does not match its files: {parts}.", "Run ingest again.")


def refuse_small(config: ValidateConfig, counts: Mapping[str, int]) -> None:
    """Raise DataRejectedError when a split has fewer images than validate.min_train_images or min_eval_images."""
    least = {"train": config.min_train_images, "eval": config.min_eval_images}
    small = [split for split in SPLITS if counts[split] < least[split]]
    if small:
        parts = ", ".join(f"{counts[split]} {split} images where {least[split]} are needed" for split in small)
        keys = " and ".join(f"validate.min_{split}_images" for split in small)
        raise DataRejectedError(f"The dataset is too small: {parts}.", f"Name a larger source, or lower {keys}.")


def refuse_constant(config: ValidateConfig, statistics: Mapping[str, SplitStatistics]) -> None:
    """Raise DataRejectedError when in all channels of a split the pixels deviate less than validate.min_deviation."""
    for split, part in statistics.items():
        if max(part.deviation) < config.min_deviation:
            raise DataRejectedError(
                f"The {split} images are constant: pixels deviate by {_levels(part.deviation)} grey levels from their"
                f" mean {_levels(part.mean)}, at least {config.min_deviation:g} is needed.",
                "Look at the source's images; if they are meant to be so, lower validate.min_deviation.",
            )


def _summary(statistics: Mapping[str, SplitStatistics]) -> ValidateSummary:
    train, held_out = statistics["train"], statistics["eval"]
    labels = {label for part in statistics.values() for label in part.label_histogram} - {"unlabelled"}
    return ValidateSummary(
        train_images=train.count,
        eval_images=held_out.count,
        image_size=train.shape[0],
        channels=train.shape[2],
        mean=list(train.mean),
        deviation=list(train.deviation),
        minimum=train.minimum,
        maximum=train.maximum,
        labels=len(labels),
    )


def _levels(values: list[float] | tuple[float, ...]) -> str:
    return "/".join(f"{value:.1f}" for value in values)
