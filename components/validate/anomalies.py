"""What is wrong with a dataset, in words and as tensorflow-metadata's Anomalies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from google.protobuf import text_format
from pydantic import BaseModel, ConfigDict
from tensorflow_metadata.proto.v0 import anomalies_pb2, path_pb2

from components.common.errors import DataRejectedError

DATASET = "dataset"  # in place of a feature's name: the anomaly is one of the whole dataset


class Anomaly(BaseModel):
    """One finding. `value` is what was measured, `noise` what two samples of one source may differ by, `limit` what is allowed.

    `reason` is the name of an AnomalyInfo.Type of tensorflow-metadata. What is not `acceptable` cannot be trained on at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    feature: str
    reason: str
    severity: Literal["error", "warning"]
    short: str
    text: str
    value: float | None = None
    noise: float | None = None
    limit: float | None = None
    acceptable: bool = True
    cure: str = ""


def errors_of(anomalies: Iterable[Anomaly]) -> list[Anomaly]:
    """Return those that stop a run."""
    return [anomaly for anomaly in anomalies if anomaly.severity == "error"]


def rejection(anomalies: Sequence[Anomaly], snapshot: str, against: str, accept: str) -> DataRejectedError:
    """Return the error that stops the run: what is wrong, and how to accept it where that is possible."""
    errors = errors_of(anomalies)
    hopeless = [anomaly for anomaly in errors if not anomaly.acceptable]
    if hopeless:
        return DataRejectedError(" ".join(anomaly.text for anomaly in hopeless), hopeless[0].cure)
    beside = f"the accepted snapshot {against}" if against else "its schema"
    found = "; ".join(anomaly.text.rstrip(".") for anomaly in errors)
    other = f" validate.accept names {accept}, which is not this snapshot." if accept else ""
    return DataRejectedError(
        f"Snapshot {snapshot} differs from {beside}: {found}.{other}",
        f"Mend the source, or accept it knowingly: --set validate.accept={snapshot}",
    )


def to_proto(anomalies: Iterable[Anomaly], baseline: Any) -> Any:
    """Return the Anomalies proto, of `baseline` (a Schema); several findings of one feature become one with several reasons."""
    proto = anomalies_pb2.Anomalies(baseline=baseline, anomaly_name_format=anomalies_pb2.Anomalies.SERIALIZED_PATH)
    for anomaly in anomalies:
        whole = anomaly.feature == DATASET
        info = proto.dataset_anomaly_info if whole else proto.anomaly_info[anomaly.feature]
        _add(info, anomaly)
        if whole:
            continue
        info.path.CopyFrom(path_pb2.Path(step=[anomaly.feature]))
        if anomaly.reason.startswith("COMPARATOR_") and anomaly.value is not None:
            _add_drift(proto, anomaly)
    return proto


def as_text(proto: Any) -> str:
    """Return a proto in text format, as TFDV's load_*_text functions read it."""
    return str(text_format.MessageToString(proto, as_utf8=True))


def _add(info: Any, anomaly: Anomaly) -> None:
    kind = anomalies_pb2.AnomalyInfo
    severity = kind.Severity.Value(anomaly.severity.upper())
    info.severity = max(info.severity, severity)
    info.reason.add(type=kind.Type.Value(anomaly.reason), short_description=anomaly.short, description=anomaly.text)
    several = len(info.reason) > 1
    info.short_description = "Multiple errors" if several else anomaly.short
    info.description = " ".join(reason.description for reason in info.reason)


def _add_drift(proto: Any, anomaly: Anomaly) -> None:
    kinds = {
        "COMPARATOR_L_INFTY_HIGH": anomalies_pb2.DriftSkewInfo.Measurement.L_INFTY,
        "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH": anomalies_pb2.DriftSkewInfo.Measurement.JENSEN_SHANNON_DIVERGENCE,
    }
    if anomaly.reason in kinds:
        drift = proto.drift_skew_info.add(path=path_pb2.Path(step=[anomaly.feature]))
        drift.drift_measurements.add(type=kinds[anomaly.reason], value=anomaly.value, threshold=anomaly.limit)
