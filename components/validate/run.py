"""The validate step: refuse a dataset that is unfit for training or has changed too much, and record its statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.artifacts import Manifest, new_artifact, read_manifest
from components.common.errors import DataRejectedError
from components.common.progress import say
from components.common.section import Summary
from components.common.store import Location, store_at
from components.dataset.records import SPLITS
from components.validate import findings
from components.validate.anomalies import Anomaly, rejection
from components.validate.config import ValidateConfig
from components.validate.drift.compare import compare_and_record
from components.validate.drift.history import Acceptance, History, copy_files
from components.validate.findings import CountedDataset
from components.validate.statistics.scan import tally_dataset
from components.validate.statistics.statistics import SplitStatistics, split_statistics


class ValidateSummary(Summary):
    """The result of a validation. Mean, deviation, minimum and maximum are those of the training split, in grey levels.

    `snapshot` is the dataset's id, `accepted_against` the snapshot that it was compared with (empty for the first), `anomalies`
    those that it was accepted with.
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


def run(config: ValidateConfig, *, dataset: Path, out: Path, work_dir: Location | None = None) -> ValidateSummary:
    """Check the dataset artifact `dataset`, alone and against its history, and write the validation artifact `out`.

    If `work_dir` has an extractor of an earlier evaluation, its features are compared too. Raises ArtifactError when a file of
    the dataset or the history is missing or damaged, DataRejectedError when the dataset's manifest does not match its records,
    when a split is too small or constant, and when the dataset violates the schema or has drifted.
    """
    manifest = read_manifest(dataset, "dataset", verify=False)  # its shards are checked while they are counted
    history = History(config.history) if config.history else None
    acceptance = history.accepted().find(manifest.digest) if history else None
    if history and acceptance:
        with history.open_snapshot(acceptance) as snapshot:
            statistics = _write_accepted_before(config, snapshot, dataset, out)
    else:
        counted = count(config, dataset, manifest, out.parent)
        statistics = counted.statistics
        acceptance = compare_and_record(config, history, counted, out, store_at(work_dir) if work_dir else None)
    summary = _summary(statistics, acceptance)
    say(
        f"{summary.train_images:,} training and {summary.eval_images:,} held-out images are valid:"
        f" {summary.image_size}×{summary.image_size}×{summary.channels}, mean {_levels(summary.mean)},"
        f" standard deviation {_levels(summary.deviation)}"
    )
    compared = f", compared with {acceptance.against}" if acceptance.against else ""
    anomalies = len(acceptance.anomalies)
    counted_anomalies = f"{anomalies or 'no'} anomal{'y' if anomalies == 1 else 'ies'}"
    say(f"Snapshot {acceptance.snapshot}{compared}: accepted ({acceptance.why}), {counted_anomalies}")
    return summary


def count(config: ValidateConfig, dataset: Path, manifest: Manifest, scratch: Path) -> CountedDataset:
    """Count a dataset. Raises DataRejectedError when its manifest is wrong or a split is too small."""
    tallies = tally_dataset(config, dataset, manifest, scratch)
    refuse_miscounted(manifest.counts, {split: tally.count for split, tally in tallies.items()})
    refuse_small(config, manifest.counts)  # before the statistics, which an empty split does not have
    size, names = int(manifest.details["image_size"]), [str(name) for name in manifest.details["label_names"]]
    statistics = {split: split_statistics(tally, size, names) for split, tally in tallies.items()}
    return CountedDataset(dataset, manifest, tallies, statistics, constant_splits(config, statistics))


def _write_accepted_before(config: ValidateConfig, snapshot: Path, dataset: Path, out: Path) -> dict[str, SplitStatistics]:
    """Write the validation of a dataset that was accepted before, from its snapshot; return its statistics."""
    statistics = findings.read_statistics(snapshot)
    refuse_small(config, {split: part.count for split, part in statistics.items()})
    if constant := constant_splits(config, statistics):
        raise rejection(constant, "", "", "")
    with new_artifact(out, "validation", config=config, inputs={"dataset": dataset}) as artifact:
        copy_files(snapshot, artifact)
        artifact.counts |= {split: part.count for split, part in statistics.items()}
    return statistics


def refuse_miscounted(claimed: Mapping[str, int], found: Mapping[str, int]) -> None:
    """Raise DataRejectedError when the manifest's numbers of images differ from those of the files."""
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
    """Return an anomaly for each split whose standard deviation is below validate.min_deviation in all channels."""
    return [
        Anomaly(
            feature="image", acceptable=False,
            text=f"The {split} images are constant: the standard deviation of their grey levels is {_levels(part.deviation)}"
            f" (mean {_levels(part.mean)}), at least {config.min_deviation:g} is needed.",
            cure="Check the source's images; if they are correct, lower validate.min_deviation.",
        )
        for split, part in statistics.items()
        if max(part.deviation) < config.min_deviation
    ]  # fmt: skip


def _summary(statistics: Mapping[str, SplitStatistics], acceptance: Acceptance) -> ValidateSummary:
    train, held_out = statistics["train"], statistics["eval"]
    labels = {label for part in statistics.values() for label in part.label_histogram} - {"unlabelled"}
    shown = {"feature", "severity", "text", "value", "limit"}
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
        snapshot=acceptance.snapshot,
        accepted_against=acceptance.against,
        anomalies=[anomaly.model_dump(include=shown) for anomaly in acceptance.anomalies],
    )


def _levels(values: list[float] | tuple[float, ...]) -> str:
    return "/".join(f"{value:.1f}" for value in values)
