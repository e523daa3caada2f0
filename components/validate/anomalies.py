"""Anomalies: what is wrong with a dataset, alone and against the last accepted snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from components.common.errors import DataRejectedError
from components.common.section import Frozen

DATASET = "dataset"  # the feature name of an anomaly of the whole dataset
WARNING_SHARE = 0.2  # of the distance that is an error

Severity = Literal["error", "warning"]


class Anomaly(Frozen):
    """One anomaly: `value` was measured, `noise` is the sampling noise, `limit` is allowed.

    A dataset with an anomaly that is not `acceptable` is always refused, and `cure` says what to do.
    """

    feature: str
    severity: Severity = "error"
    text: str
    value: float | None = None
    noise: float | None = None
    limit: float | None = None
    acceptable: bool = True
    cure: str = ""


class Distance(NamedTuple):
    """A distance between two snapshots, which may be at most `most` (None: it is never an error).

    For two samples of one source it exceeds `noise` only with the probability of a false alarm.
    """

    feature: str
    value: float
    noise: float
    most: float | None
    text: str


def drift_anomalies(distances: Iterable[Distance]) -> list[Anomaly]:
    """Return an anomaly for each distance above its noise and a limit: an error above `most`, a warning above a share of it."""
    anomalies = []
    for feature, value, noise, most, text in distances:
        is_error = most is not None and value > max(noise, most)
        limit = max(noise, (most or 0.0) * (1.0 if is_error else WARNING_SHARE))
        if value > limit:
            text = f"{text} (limit {limit:.4f}, sampling noise {noise:.4f})"
            severity: Severity = "error" if is_error else "warning"
            anomalies.append(Anomaly(feature=feature, severity=severity, text=text, value=value, noise=noise, limit=limit))
    return anomalies


def errors_of(anomalies: Iterable[Anomaly]) -> list[Anomaly]:
    """Return the anomalies that stop a run."""
    return [anomaly for anomaly in anomalies if anomaly.severity == "error"]


def rejection(anomalies: Sequence[Anomaly], snapshot: str, against: str, accept: str) -> DataRejectedError:
    """Return the error that stops the run: what is wrong, and how to accept the snapshot if that is possible."""
    errors = errors_of(anomalies)
    unacceptable = [anomaly for anomaly in errors if not anomaly.acceptable]
    if unacceptable:
        return DataRejectedError(" ".join(anomaly.text for anomaly in unacceptable), unacceptable[0].cure)
    baseline = f"the accepted snapshot {against}" if against else "its schema"
    texts = "; ".join(anomaly.text.rstrip(".") for anomaly in errors)
    other = f" validate.accept names {accept}, which is not this snapshot." if accept else ""
    return DataRejectedError(
        f"Snapshot {snapshot} differs from {baseline}: {texts}.{other}",
        f"Correct the source, or accept the snapshot: --set validate.accept={snapshot}",
    )
