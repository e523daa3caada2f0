"""What a validation finds beside the last accepted snapshot, and the files that say so."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.common.artifacts import Manifest, write_bytes, write_json, write_text
from components.common.errors import ArtifactError, first_line
from components.dataset.records import SPLITS
from components.validate import schema
from components.validate.anomalies import DATASET, Anomaly, as_text
from components.validate.anomalies import to_proto as anomalies_proto
from components.validate.config import ValidateConfig
from components.validate.drift import drift
from components.validate.drift.history import Acceptance
from components.validate.statistics import protos
from components.validate.statistics.outliers import write_worst
from components.validate.statistics.statistics import SplitStatistics
from components.validate.statistics.tally import CHANNEL_BUCKETS, LEVELS, LOOK_BUCKETS, Tally, total

STATISTICS_FILE, COMPARISON_FILE = "statistics.json", "comparison.json"
ANOMALIES_FILE, ANOMALIES_TEXT_FILE = "anomalies.json", "anomalies.pbtxt"
TALLY_FILES = {split: f"tally-{split}.json" for split in SPLITS}
MEASURE_KEYS = ("feature", "reason", "value", "noise", "warn", "most")


class Snapshot(NamedTuple):
    """Both splits of a dataset together: the tally, images a label, and what a schema would say of them."""

    tally: Tally
    labels: dict[str, int]
    observed: schema.Expected


class Before(NamedTuple):
    """The last accepted snapshot and the schema that is held."""

    snapshot: Snapshot
    expected: schema.Expected


class Findings(NamedTuple):
    """Anomalies and distances of a dataset, and what was compared; `before` is None for the first snapshot."""

    anomalies: list[Anomaly]
    measures: list[drift.Measure]
    now: Snapshot
    before: Before | None

    def expected(self, accepted_anyway: bool) -> schema.Expected:
        """Return the schema from now on: the held one, unless there is none or a break of it was accepted."""
        return self.now.observed if self.before is None or accepted_anyway else self.before.expected


def together(tallies: Mapping[str, Tally], statistics: dict[str, SplitStatistics]) -> Snapshot:
    """Return both splits as one snapshot."""
    labels: Counter[str] = Counter()
    for part in statistics.values():
        labels.update(part.label_histogram)
    tally = total(tallies.values(), next(iter(tallies.values())).channels)
    return Snapshot(tally, dict(labels), schema.observed(statistics))


def read_before(folder: Path) -> Before:
    """Read an accepted snapshot. Raises ArtifactError where a file is missing or of another form."""
    expected, statistics = schema.read(folder / schema.FILE)[1], read_statistics(folder)
    try:
        tallies = {split: Tally.from_json((folder / name).read_bytes()) for split, name in TALLY_FILES.items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise _unreadable("tallies", folder, error) from error
    return Before(together(tallies, statistics), expected)


def read_statistics(folder: Path) -> dict[str, SplitStatistics]:
    """Return the statistics of a snapshot by split. Raises ArtifactError where they are of another form."""
    try:
        parts = json.loads((folder / STATISTICS_FILE).read_bytes())
        return {split: SplitStatistics.model_validate(parts[split]) for split in SPLITS}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _unreadable("statistics", folder, error) from error


def _unreadable(what: str, folder: Path, error: Exception) -> ArtifactError:
    problem = first_line(error)
    return ArtifactError(
        f"The {what} in {folder} cannot be read: {problem}.", "Restore them from a backup, or name another validate.history."
    )


def compare(config: ValidateConfig, now: Snapshot, before: Before | None) -> Findings:
    """Return what breaks the schema, and where images are of the size that it says, how far they have drifted."""
    if before is None:
        return Findings([], [], now, None)
    anomalies = [*schema.violations(before.expected, now.observed, config), *_fewer(config, before.snapshot.tally, now.tally)]
    same_form = before.snapshot.observed[:2] == now.observed[:2]
    labels = (before.snapshot.labels, now.labels)
    measures = drift.measure(before.snapshot.tally, now.tally, labels, config) if same_form else []
    return Findings([*anomalies, *drift.to_anomalies(measures)], measures, now, before)


def with_features(found: Findings, measure: drift.Measure | None) -> Findings:
    """Return the findings with one more distance, where there is one."""
    if measure is None:
        return found
    return found._replace(anomalies=[*found.anomalies, *drift.to_anomalies([measure])], measures=[*found.measures, measure])


def _fewer(config: ValidateConfig, before: Tally, now: Tally) -> list[Anomaly]:
    share = now.count / before.count
    if share >= config.min_images_share:
        return []
    text = (
        f"there are {now.count:,} images where there were {before.count:,}, {share:.1%} of them"
        f" (validate.min_images_share allows {config.min_images_share:.0%})"
    )
    return [
        Anomaly(
            feature=DATASET, reason="COMPARATOR_LOW_NUM_EXAMPLES", severity="error", short="Fewer images", text=text,
            value=share, limit=config.min_images_share,
        )
    ]  # fmt: skip


def write_findings(
    folder: Path,
    dataset: Path,
    manifest: Manifest,
    tallies: Mapping[str, Tally],
    statistics: Mapping[str, SplitStatistics],
    found: Findings,
    entry: Acceptance,
    config: ValidateConfig,
    accepted: bool,
) -> None:
    """Write every file of a validation into `folder`: statistics, tallies, schema, anomalies, comparison, worst images."""
    write_json(folder / STATISTICS_FILE, {split: part.model_dump(mode="json") for split, part in statistics.items()})
    proto = protos.to_proto(tallies, statistics)
    write_bytes(folder / protos.BINARY_FILE, proto.SerializeToString(deterministic=True))
    write_text(folder / protos.TEXT_FILE, as_text(proto))
    for split, name in TALLY_FILES.items():
        write_text(folder / name, tallies[split].to_json())
    held = schema.to_proto(found.expected(entry.why == "validate.accept" and accepted), config)
    write_text(folder / schema.FILE, as_text(held))
    write_json(folder / ANOMALIES_FILE, [anomaly.model_dump(mode="json") for anomaly in found.anomalies])
    write_text(folder / ANOMALIES_TEXT_FILE, as_text(anomalies_proto(found.anomalies, held)))
    about = {
        "snapshot": entry.snapshot,
        "against": entry.against,
        "why": entry.why if accepted else "",
        "counts": manifest.counts,
    }
    write_json(folder / COMPARISON_FILE, about | comparison(found))
    write_worst(folder, dataset, found.now.tally, int(manifest.details["image_size"]))


def comparison(found: Findings) -> dict[str, Any]:
    """Return distances, and histograms now and before (null for the first snapshot), as JSON values for the report."""
    before = found.before.snapshot if found.before else None
    histograms = _histograms(found.now.tally)
    earlier = _histograms(before.tally) if before else {}
    return {
        "measures": [_plain(measure) for measure in found.measures],
        "images": {"now": found.now.tally.count, "before": before.tally.count if before else None},
        "blank": {"now": found.now.tally.blank, "before": before.tally.blank if before else None},
        "labels": {"now": found.now.labels, "before": before.labels if before else None},
        "histograms": {
            name: {"bucket": bucket, "now": counts, "before": earlier[name][1] if name in earlier else None}
            for name, (bucket, counts) in histograms.items()
        },
    }


def _plain(measure: drift.Measure) -> dict[str, Any]:
    """Return a distance as JSON values; without a limit that makes an error of it, that is null."""
    values = {name: getattr(measure, name) for name in MEASURE_KEYS}
    return values | {"most": measure.most if math.isfinite(measure.most) else None}


def _histograms(tally: Tally) -> dict[str, tuple[float, list[int]]]:
    """Return (grey levels a bucket, counts) by name."""
    looks = {"brightness": (LEVELS / LOOK_BUCKETS, tally.brightness), "contrast": (LEVELS / LOOK_BUCKETS / 2, tally.contrast)}
    channels = {
        f"channel_{channel}": (LEVELS / CHANNEL_BUCKETS, levels.reshape(CHANNEL_BUCKETS, -1).sum(axis=1))
        for channel, levels in enumerate(tally.levels)
    }
    return {name: (bucket, counts.tolist()) for name, (bucket, counts) in (looks | channels).items()}
