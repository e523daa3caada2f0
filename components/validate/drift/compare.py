"""Compares a dataset with the last accepted snapshot, and records it in the history as accepted or refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

from components.common.artifacts import new_artifact, now
from components.common.numbered import repeat_on_conflict
from components.common.store import Store
from components.validate import findings, schema
from components.validate.anomalies import DATASET, Anomaly, drift_anomalies, errors_of, rejection
from components.validate.config import ValidateConfig
from components.validate.drift.history import Acceptance, Accepted, History, Reason, copy_files, snapshot_id
from components.validate.findings import CountedDataset, Findings, Totals


def compare_and_record(
    config: ValidateConfig, history: History | None, counted: CountedDataset, out: Path, work: Store | None
) -> Acceptance:
    """Write the validation artifact `out` of a dataset and, if there is a history, its snapshot; return the acceptance.

    Raises DataRejectedError when the dataset is refused, ArtifactError when the history is broken.
    """
    return repeat_on_conflict(lambda: _compare_and_record_once(config, history, counted, out, work), "Comparing again.")


def _compare_and_record_once(
    config: ValidateConfig, history: History | None, counted: CountedDataset, out: Path, work: Store | None
) -> Acceptance:
    digest = counted.manifest.digest
    with (
        new_artifact(out, "validation", config=config, inputs={"dataset": counted.path}) as artifact,
        contextlib.ExitStack() as stack,
    ):
        artifact.counts |= {split: part.count for split, part in counted.statistics.items()}
        before = history.accepted() if history else Accepted([], 0)
        known = before.find(digest)
        if history and known:  # another run accepted this dataset while this run counted it
            copy_files(stack.enter_context(history.open_snapshot(known)), artifact)
            return known
        last = stack.enter_context(history.open_snapshot(before.last)) if history and before.last else None
        found = _compare(config, counted, last, artifact.path, work)
        snapshot, against = snapshot_id(digest), before.last.snapshot if before.last else ""
        why = reason_to_accept(config, found.anomalies, snapshot, first=last is None)
        valid_schema = found.now.schema if why == "validate.accept" else found.required
        outcome = {"snapshot": snapshot, "against": against, "why": why or ""}
        findings.write_findings(artifact.path, counted, found, valid_schema, outcome)
        if why is None:
            if history:
                history.refuse(snapshot, config, artifact.path, counted.path)
            raise rejection(found.anomalies, snapshot, against, config.accept)
        acceptance = Acceptance(
            snapshot=snapshot,
            dataset_digest=digest,
            against=against,
            accepted_at=now(),
            why=why,
            anomalies=tuple(found.anomalies),
            accepted_by=str(out),
            config=config.model_dump(mode="json"),
        )
        if history:
            history.accept(acceptance, before, config, artifact.path, counted.path)
        return acceptance


def _compare(config: ValidateConfig, counted: CountedDataset, last: Path | None, folder: Path, work: Store | None) -> Findings:
    """Return the findings against the snapshot in `last`; write the sample for the next comparison into `folder`."""
    now = findings.totals(counted.tallies, counted.statistics)
    findings.write_sample(folder, counted.path, now.tally)
    if last is None:
        return Findings(counted.anomalies, [], now, None, now.schema)
    from components.validate.drift import drift, features  # SciPy takes half a second to import

    required, before = schema.read(last), findings.read_totals(last)
    anomalies = [*counted.anomalies, *schema.violations(required, now.schema, config), *_fewer_images(config, before, now)]
    distances = []
    if before.schema.shape == now.schema.shape:
        distances = drift.measure(before.tally, now.tally, (before.labels, now.labels), config)
        size, channels = now.schema.image_size, now.schema.channels
        chance = drift.chance_of_each(config, channels)
        of_features = features.feature_distance(work, last, folder, size, channels, chance)
        distances += [of_features] if of_features else []
    return Findings([*anomalies, *drift_anomalies(distances)], distances, now, before, required)


def _fewer_images(config: ValidateConfig, before: Totals, now: Totals) -> list[Anomaly]:
    share = now.tally.count / before.tally.count
    if share >= config.min_images_share:
        return []
    text = (
        f"there are {now.tally.count:,} images, {share:.1%} of the {before.tally.count:,} before"
        f" (validate.min_images_share requires {config.min_images_share:.0%})"
    )
    return [Anomaly(feature=DATASET, text=text, value=share, limit=config.min_images_share)]


def reason_to_accept(config: ValidateConfig, anomalies: list[Anomaly], snapshot: str, *, first: bool) -> Reason | None:
    """Return why a dataset is accepted, or None if it is refused."""
    errors = errors_of(anomalies)
    if not errors:
        return "first snapshot" if first else "no error"
    acceptable = all(anomaly.acceptable for anomaly in errors)
    return "validate.accept" if acceptable and config.accept == snapshot else None
