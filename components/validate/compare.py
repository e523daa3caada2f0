"""Judges a dataset that is not in its history yet: beside the last accepted snapshot, under the history's lock."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from components.common.artifacts import Manifest, new_artifact, read_manifest
from components.validate import findings
from components.validate.anomalies import Anomaly, errors_of, rejection
from components.validate.config import ValidateConfig
from components.validate.drift import drift, features, history
from components.validate.drift.history import Acceptance
from components.validate.findings import Findings
from components.validate.statistics.statistics import SplitStatistics
from components.validate.statistics.tally import Tally

Why = Literal["first snapshot", "no error", "validate.accept"]


class Counted(NamedTuple):
    """A dataset after the pass over it, and what is wrong with it whatever was accepted before."""

    dataset: Path
    manifest: Manifest
    tallies: dict[str, Tally]
    statistics: dict[str, SplitStatistics]
    anomalies: list[Anomaly]


def judge(config: ValidateConfig, place: Path | None, counted: Counted, out: Path, work_dir: Path | None) -> Acceptance:
    """Write the validation artifact `out` of a dataset and, where there is a history, its snapshot; return the acceptance.

    Raises DataRejectedError when the dataset is refused, ArtifactError when the history is broken.
    """
    inputs = {"dataset": counted.dataset}
    with new_artifact(out, "validation", config=config, inputs=inputs) as artifact, _accepted(place) as accepted:
        artifact.counts |= {split: part.count for split, part in counted.statistics.items()}
        known = history.find(accepted, counted.manifest.digest)
        if place and known:  # another run has accepted it while this one counted
            copy_files(history.snapshot_folder(place, known), artifact.path)
            return known
        last = history.snapshot_folder(place, accepted[-1]) if place and accepted else None
        found = _compare(config, counted, last, artifact.path, work_dir)
        snapshot, against = history.snapshot_id(counted.manifest.digest), accepted[-1].snapshot if accepted else ""
        why = decide(config, found.anomalies, snapshot, first=last is None)
        digest = counted.manifest.digest
        entry = history.new_acceptance(snapshot, digest, against, why or "no error", found.anomalies, out, config)
        findings.write_findings(
            artifact.path, counted.dataset, counted.manifest, counted.tallies, counted.statistics, found, entry, config,
            accepted=why is not None,
        )  # fmt: skip
        if why is None:
            if place:
                history.refuse(place, snapshot, config, artifact.path, counted.dataset)
            raise rejection(found.anomalies, snapshot, against, config.accept)
        if place:
            history.accept(place, entry, config, artifact.path, counted.dataset)
        return entry


@contextlib.contextmanager
def _accepted(place: Path | None) -> Iterator[list[Acceptance]]:
    """Hold the history's lock, where there is a history, and yield what was accepted."""
    if place is None:
        yield []
        return
    with history.locked(place):
        yield history.read_accepted(place)


def _compare(config: ValidateConfig, counted: Counted, last: Path | None, folder: Path, work_dir: Path | None) -> Findings:
    """Return what is found beside the snapshot in `last`; the sample for the next comparison is written into `folder`."""
    before = findings.read_before(last) if last else None
    found = findings.compare(config, findings.together(counted.tallies, counted.statistics), before)
    features.write_sample(folder, counted.dataset, found.now.tally)
    if last and found.measures:
        size, channels = found.now.observed[:2]
        chance = drift.chance_of_each(config, channels)
        distance = features.feature_distance(work_dir, last, folder, size, channels, chance)
        found = findings.with_features(found, distance)
    return found._replace(anomalies=[*counted.anomalies, *found.anomalies])


def decide(config: ValidateConfig, anomalies: list[Anomaly], snapshot: str, *, first: bool) -> Why | None:
    """Return why a dataset is accepted, or None where it is not."""
    errors = errors_of(anomalies)
    if not errors:
        return "first snapshot" if first else "no error"
    acceptable = all(anomaly.acceptable for anomaly in errors)
    return "validate.accept" if acceptable and config.accept == snapshot else None


def copy_files(snapshot: Path, folder: Path) -> None:
    """Copy the files of a snapshot, whose digests have been checked."""
    for name in read_manifest(snapshot, verify=False).files:
        shutil.copy(snapshot / name, folder / name)
