"""The validate step: refuse a dataset that is not fit to train on or not what it was, and record its statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.artifacts import Manifest, new_artifact, read_manifest
from components.common.errors import DataRejectedError
from components.common.progress import say
from components.common.section import Summary
from components.dataset.records import SPLITS
from components.validate import findings
from components.validate.anomalies import Anomaly, rejection
from components.validate.compare import Counted, copy_files, judge
from components.validate.config import ValidateConfig
from components.validate.drift import history
from components.validate.statistics.scan import tally_dataset
from components.validate.statistics.statistics import SplitStatistics, split_statistics


class ValidateSummary(Summary):
    """What the dataset is: mean, deviation, minimum and maximum are those of the training split, in grey levels.

    `snapshot` is the dataset's id, `accepted_against` the snapshot it was compared with, empty for the first; `anomalies`
    are those it was accepted with.
    """

    train_images: int
    eval_images: int
    image_size: int
    channels: int
    mean: list[float]
    deviation: list[float]
    minimum: int
    maximum: int
    labels: int
    snapshot: str
    accepted_against: str
    anomalies: list[dict[str, Any]]


def run(config: ValidateConfig, *, dataset: Path, out: Path, work_dir: Path | None = None) -> ValidateSummary:
    """Check the dataset artifact `dataset`, by itself and beside its history, and write the validation artifact `out`.

    Where an evaluation has left an extractor in `work_dir`, its features are compared too.
    Raises ArtifactError when a file of the dataset or the history is missing or damaged, DataRejectedError when the dataset's
    counts do not match its records, when a split is too small or constant, and when it breaks the schema or has drifted.
    """
    manifest = read_manifest(dataset, "dataset")
    place = Path(config.history) if config.history else None
    entry = history.find(history.read_accepted(place), manifest.digest) if place else None
    if place is None or entry is None:
        counted = count(config, dataset, manifest, out.parent)
        statistics, entry = counted.statistics, judge(config, place, counted, out, work_dir)
    else:
        statistics = _accepted_before(config, history.snapshot_folder(place, entry), dataset, out)
    summary = _summary(statistics, entry)
    say(
        f"{summary.train_images:,} images to train and {summary.eval_images:,} held out are fit: {summary.image_size}×"
        f"{summary.image_size}×{summary.channels}, mean {_levels(summary.mean)}, deviation {_levels(summary.deviation)}"
    )
    say(_in_words(entry))
    return summary


def count(config: ValidateConfig, dataset: Path, manifest: Manifest, scratch: Path) -> Counted:
    """Return a dataset after the pass over it. Raises DataRejectedError when it is miscounted or too small."""
    tallies = tally_dataset(config, dataset, manifest, scratch)
    refuse_miscounted(manifest.counts, {split: tally.count for split, tally in tallies.items()})
    refuse_small(config, manifest.counts)  # before all else: an empty split has no statistics
    size, names = int(manifest.details["image_size"]), [str(name) for name in manifest.details["label_names"]]
    statistics = {split: split_statistics(tally, size, names) for split, tally in tallies.items()}
    return Counted(dataset, manifest, tallies, statistics, constant_splits(config, statistics))


def _accepted_before(config: ValidateConfig, folder: Path, dataset: Path, out: Path) -> dict[str, SplitStatistics]:
    """Write the validation of a dataset that was accepted before from what was kept then; return its statistics."""
    statistics = findings.read_statistics(folder)
    refuse_small(config, {split: part.count for split, part in statistics.items()})
    if constant := constant_splits(config, statistics):
        raise rejection(constant, "", "", "")
    with new_artifact(out, "validation", config=config, inputs={"dataset": dataset}) as artifact:
        copy_files(folder, artifact.path)
        artifact.counts |= {split: part.count for split, part in statistics.items()}
    return statistics


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


def constant_splits(config: ValidateConfig, statistics: Mapping[str, SplitStatistics]) -> list[Anomaly]:
    """Return an anomaly for each split whose pixels deviate less than validate.min_deviation in all channels."""
    return [
        Anomaly(
            feature="image", reason="CUSTOM_VALIDATION", severity="error", short="Constant images", acceptable=False,
            text=f"The {split} images are constant: pixels deviate by {_levels(part.deviation)} grey levels from their"
            f" mean {_levels(part.mean)}, at least {config.min_deviation:g} is needed.",
            cure="Look at the source's images; if they are meant to be so, lower validate.min_deviation.",
        )
        for split, part in statistics.items()
        if max(part.deviation) < config.min_deviation
    ]  # fmt: skip


def _summary(statistics: Mapping[str, SplitStatistics], entry: history.Acceptance) -> ValidateSummary:
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
        snapshot=entry.snapshot,
        accepted_against=entry.against,
        anomalies=[
            anomaly.model_dump(include={"feature", "severity", "text", "value", "limit"}) for anomaly in entry.anomalies
        ],
    )


def _in_words(entry: history.Acceptance) -> str:
    beside = f", compared with {entry.against}" if entry.against else ""
    count = len(entry.anomalies)
    found = f"{count} anomal{'y' if count == 1 else 'ies'}" if count else "no anomaly"
    return f"Snapshot {entry.snapshot}{beside}: accepted ({entry.why}), {found}"


def _levels(values: list[float] | tuple[float, ...]) -> str:
    return "/".join(f"{value:.1f}" for value in values)
