"""The findings of a validation, and the files that record them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.common.artifacts import Manifest, write_json, write_text
from components.common.errors import ArtifactError, first_line
from components.dataset.records import SPLITS, read_tfrecord_part, write_tfrecord
from components.validate import schema
from components.validate.anomalies import Anomaly, Distance
from components.validate.schema import ImageSchema
from components.validate.statistics.outliers import write_worst
from components.validate.statistics.statistics import SplitStatistics
from components.validate.statistics.tally import CHANNEL_BUCKETS, IMAGE_BUCKETS, LEVELS, Tally

STATISTICS_FILE, SAMPLE_FILE = "statistics.json", "sample.tfrecord"
TALLY_FILES = {split: f"tally-{split}.json" for split in SPLITS}


class CountedDataset(NamedTuple):
    """A dataset with its counts, and the anomalies that do not depend on earlier snapshots."""

    path: Path
    manifest: Manifest
    tallies: dict[str, Tally]
    statistics: dict[str, SplitStatistics]
    anomalies: list[Anomaly]


class Totals(NamedTuple):
    """Both splits of a dataset together: the tally, the number of images of each label, and the schema."""

    tally: Tally
    labels: dict[str, int]
    schema: ImageSchema


class Findings(NamedTuple):
    """The anomalies and distances of a dataset.

    It was compared with `before`, which is None for the first snapshot, and had to satisfy the schema `required`.
    """

    anomalies: list[Anomaly]
    distances: list[Distance]
    now: Totals
    before: Totals | None
    required: ImageSchema


def totals(tallies: Mapping[str, Tally], statistics: dict[str, SplitStatistics]) -> Totals:
    """Return the totals of both splits."""
    labels = sum((Counter(part.label_histogram) for part in statistics.values()), Counter[str]())
    first, *rest = tallies.values()
    return Totals(sum(rest, first), dict(labels), schema.infer(statistics))


def read_totals(folder: Path) -> Totals:
    """Read the totals of an accepted snapshot. Raises ArtifactError when a file is missing or malformed."""
    statistics = read_statistics(folder)
    try:
        tallies = {split: Tally.from_json((folder / name).read_bytes()) for split, name in TALLY_FILES.items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise _unreadable("tallies", folder, error) from error
    return totals(tallies, statistics)


def read_statistics(folder: Path) -> dict[str, SplitStatistics]:
    """Return the statistics of a snapshot by split. Raises ArtifactError when they are malformed."""
    try:
        parts = json.loads((folder / STATISTICS_FILE).read_bytes())
        return {split: SplitStatistics.model_validate(parts[split]) for split in SPLITS}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _unreadable("statistics", folder, error) from error


def _unreadable(what: str, folder: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"The {what} in {folder} cannot be read: {first_line(error)}.",
        "Restore them from a backup, or name another validate.history.",
    )


def write_sample(folder: Path, dataset: Path, tally: Tally) -> None:
    """Write the records of the tally's sample, with which the next snapshot's features are compared."""
    records = (next(read_tfrecord_part(dataset / file, byte, 1)) for _, file, byte in tally.sample)
    write_tfrecord(folder / SAMPLE_FILE, records)


def write_findings(
    folder: Path,
    counted: CountedDataset,
    found: Findings,
    valid_schema: ImageSchema,
    outcome: Mapping[str, str],
) -> None:
    """Write statistics, tallies, schema, anomalies, comparison and worst images into `folder`.

    `valid_schema` applies from now on; `outcome` names the snapshot, its predecessor, and why it was accepted.
    """
    splits = counted.statistics
    write_json(folder / STATISTICS_FILE, {split: part.model_dump(mode="json") for split, part in splits.items()})
    for split, name in TALLY_FILES.items():
        write_text(folder / name, counted.tallies[split].to_json())
    write_json(folder / schema.FILE, valid_schema.model_dump(mode="json"))
    write_json(folder / "anomalies.json", [anomaly.model_dump(mode="json") for anomaly in found.anomalies])
    write_json(folder / "comparison.json", {**outcome, "counts": counted.manifest.counts} | _comparison(found))
    write_worst(folder, counted.path, found.now.tally, found.now.schema.image_size)


def _comparison(found: Findings) -> dict[str, Any]:
    """Return the distances, and all counts now and before (null for the first snapshot), as JSON values for the report."""
    now, before = found.now, found.before
    earlier = _histograms(before.tally) if before else {}
    return {
        "measures": [
            {"feature": distance.feature, "value": distance.value, "noise": distance.noise, "most": distance.most}
            for distance in found.distances
        ],
        "images": {"now": now.tally.count, "before": before.tally.count if before else None},
        "blank": {"now": now.tally.blank, "before": before.tally.blank if before else None},
        "labels": {"now": now.labels, "before": before.labels if before else None},
        "histograms": {
            name: {"bucket": width, "now": counts, "before": earlier[name][1] if name in earlier else None}
            for name, (width, counts) in _histograms(now.tally).items()
        },
    }


def _histograms(tally: Tally) -> dict[str, tuple[float, list[int]]]:
    """Return each histogram by name: (grey levels a bucket, counts)."""
    histograms = {
        "brightness": (LEVELS / IMAGE_BUCKETS, tally.brightness.tolist()),
        "contrast": (LEVELS / IMAGE_BUCKETS / 2, tally.contrast.tolist()),
    }
    for channel, levels in enumerate(tally.levels):
        counts = levels.reshape(CHANNEL_BUCKETS, -1).sum(axis=1).tolist()
        histograms[f"channel_{channel}"] = (LEVELS / CHANNEL_BUCKETS, counts)
    return histograms
