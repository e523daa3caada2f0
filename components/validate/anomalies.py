"""Anomalies: what is wrong with a dataset, as models for this program and as tensorflow-metadata's Anomalies for TFDV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from components.common.errors import DataRejectedError

DATASET = "dataset"  # the feature name of an anomaly of the whole dataset
L_INFINITY, JENSEN_SHANNON = "COMPARATOR_L_INFTY_HIGH", "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH"
DRIFT_MEASUREMENTS = {L_INFINITY: "L_INFTY", JENSEN_SHANNON: "JENSEN_SHANNON_DIVERGENCE"}  # of tensorflow-metadata

Severity = Literal["error", "warning"]


class Anomaly(BaseModel):
    """One anomaly: `value` was measured, `noise` is the sampling noise, `limit` is allowed.

    `reason` is the name of an AnomalyInfo.Type of tensorflow-metadata. A dataset with an anomaly that is not `acceptable` is
    always refused, and `cure` says what to do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    feature: str
    reason: str
    severity: Severity
    short: str
    text: str
    value: float | None = None
    noise: float | None = None
    limit: float | None = None
    acceptable: bool = True
    cure: str = ""


class Distance(NamedTuple):
    """A distance between two snapshots, with its limits `warn` and `most`.

    For two samples of one source it exceeds `noise` only with the probability of a false alarm.
    """

    feature: str
    reason: str
    value: float
    noise: float
    warn: float
    most: float
    text: str


def drift_anomalies(distances: Iterable[Distance]) -> list[Anomaly]:
    """Return an anomaly for each distance above its noise and a limit: an error above `most`, a warning above `warn`."""
    anomalies = []
    for distance in distances:
        severity: Severity = "error" if distance.value > max(distance.noise, distance.most) else "warning"
        limit = max(distance.noise, distance.most if severity == "error" else distance.warn)
        if distance.value > limit:
            text = f"{distance.text} (limit {limit:.4f}, sampling noise {distance.noise:.4f})"
            anomalies.append(
                Anomaly(
                    feature=distance.feature, reason=distance.reason, severity=severity, short="Drift", text=text,
                    value=distance.value, noise=distance.noise, limit=limit,
                )
            )  # fmt: skip
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


def to_proto(anomalies: Iterable[Anomaly], schema: Any) -> Any:
    """Return the Anomalies proto of a Schema proto. The anomalies of one feature become one entry with several reasons."""
    from tensorflow_metadata.proto.v0 import (  # every run reads a history, but only validate writes protos
        anomalies_pb2,
        path_pb2,
    )

    proto = anomalies_pb2.Anomalies(baseline=schema, anomaly_name_format=anomalies_pb2.Anomalies.SERIALIZED_PATH)
    for anomaly in anomalies:
        if anomaly.feature == DATASET:
            _add_reason(proto.dataset_anomaly_info, anomaly)
            continue
        path = path_pb2.Path(step=[anomaly.feature])
        _add_reason(proto.anomaly_info[anomaly.feature], anomaly)
        proto.anomaly_info[anomaly.feature].path.CopyFrom(path)
        if anomaly.reason in DRIFT_MEASUREMENTS:
            measurements = proto.drift_skew_info.add(path=path).drift_measurements
            measurements.add(type=DRIFT_MEASUREMENTS[anomaly.reason], value=anomaly.value, threshold=anomaly.limit)
    return proto


def _add_reason(info: Any, anomaly: Anomaly) -> None:
    kind = type(info)
    info.severity = max(info.severity, kind.Severity.Value(anomaly.severity.upper()))
    info.reason.add(type=kind.Type.Value(anomaly.reason), short_description=anomaly.short, description=anomaly.text)
    info.short_description = "Multiple errors" if len(info.reason) > 1 else anomaly.short
    info.description = " ".join(reason.description for reason in info.reason)


def as_text(proto: Any) -> str:
    """Return a proto in text format, which TFDV's load_*_text functions read."""
    from google.protobuf import text_format

    return str(text_format.MessageToString(proto, as_utf8=True))
