"""The schema: inferred from the first snapshot, then held; as tensorflow-metadata's Schema, which TFDV reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from components.common.errors import ArtifactError, first_line
from components.validate.anomalies import DATASET, Anomaly
from components.validate.config import ValidateConfig
from components.validate.statistics.statistics import SplitStatistics

FILE = "schema.pbtxt"
DERIVER = "wgan-tpu-pipeline"


class Expected(NamedTuple):
    """What a schema says: size and channels of the images, names of the labels, range of grey levels."""

    image_size: int
    channels: int
    labels: tuple[str, ...]
    minimum: int
    maximum: int


def observed(splits: dict[str, SplitStatistics]) -> Expected:
    """Return what a dataset is, both splits together."""
    parts = [part for part in splits.values() if part.count]
    labels = {label for part in parts for label, images in part.label_histogram.items() if images}
    return Expected(
        image_size=parts[0].shape[0],
        channels=parts[0].shape[2],
        labels=tuple(sorted(labels)),
        minimum=min(part.minimum for part in parts),
        maximum=max(part.maximum for part in parts),
    )


def to_proto(expected: Expected, config: ValidateConfig) -> Any:
    """Return the Schema: the features of a record, and with lifecycle VALIDATION_DERIVED those that are made of it."""
    schema = schema_pb2.Schema()
    for name, kind in (("image", schema_pb2.BYTES), ("id", schema_pb2.BYTES), ("label", schema_pb2.INT)):
        feature = schema.feature.add(name=name, type=kind)
        feature.presence.min_fraction = 1.0
        feature.value_count.min = feature.value_count.max = 1
    for name, value in (("image_size", expected.image_size), ("image_channels", expected.channels)):
        domain = _derived(schema, name, schema_pb2.INT).int_domain
        domain.min = domain.max = value
    labels = _derived(schema, "label_name", schema_pb2.BYTES)
    labels.string_domain.value.extend(expected.labels)
    labels.drift_comparator.infinity_norm.threshold = config.max_label_drift
    for channel in range(expected.channels):
        feature = _derived(schema, f"channel_{channel}", schema_pb2.INT)
        feature.int_domain.min, feature.int_domain.max = expected.minimum, expected.maximum
        feature.drift_comparator.jensen_shannon_divergence.threshold = config.max_histogram_drift
    for name in ("brightness", "contrast"):
        feature = _derived(schema, name, schema_pb2.FLOAT)
        feature.drift_comparator.jensen_shannon_divergence.threshold = config.max_histogram_drift
    return schema


def _derived(schema: Any, name: str, kind: int) -> Any:
    feature = schema.feature.add(name=name, type=kind, lifecycle_stage=schema_pb2.VALIDATION_DERIVED)
    feature.validation_derived_source.deriver_name = DERIVER
    return feature


def read(file: Path) -> tuple[Any, Expected]:
    """Return a schema and what it says. Raises ArtifactError where it cannot be read or says too little."""
    try:
        schema = text_format.Parse(file.read_text(), schema_pb2.Schema())
        features = {feature.name: feature for feature in schema.feature}
        expected = Expected(
            image_size=features["image_size"].int_domain.max,
            channels=features["image_channels"].int_domain.max,
            labels=tuple(features["label_name"].string_domain.value),
            minimum=features["channel_0"].int_domain.min,
            maximum=features["channel_0"].int_domain.max,
        )
    except (OSError, UnicodeDecodeError, text_format.ParseError, KeyError) as error:
        problem = f"it has no feature {error}" if isinstance(error, KeyError) else first_line(error)
        raise ArtifactError(
            f"The schema {file} cannot be read: {problem}.", "Restore it from a backup, or name another validate.history."
        ) from error
    return schema, expected


def violations(expected: Expected, found: Expected, config: ValidateConfig) -> list[Anomaly]:
    """Return how a dataset breaks the schema; all are errors but values beyond the schema's range."""
    size = [_other_size(expected, found)] if expected[:2] != found[:2] else []
    return [*size, *_other_labels(expected, found), *_other_range(expected, found, config)]


def _other_size(expected: Expected, found: Expected) -> Anomaly:
    ours, theirs = (f"{side.image_size}×{side.image_size}×{side.channels}" for side in (found, expected))
    feature = "image_size" if expected.image_size != found.image_size else "image_channels"
    text = f"images are {ours}, the schema holds {theirs}"
    return Anomaly(feature=feature, reason="INVALID_FEATURE_SHAPE", severity="error", short="Other images", text=text)


def _other_labels(expected: Expected, found: Expected) -> list[Anomaly]:
    new, missing = sorted(set(found.labels) - set(expected.labels)), sorted(set(expected.labels) - set(found.labels))
    texts = []
    if new:
        text = f"{_quoted(new)}, which the schema does not hold"
        texts.append(("ENUM_TYPE_UNEXPECTED_STRING_VALUES", "New label", text))
    if missing:
        texts.append(("FEATURE_COVERAGE_TOO_LOW", "Missing label", f"no image has {_quoted(missing)} of the schema"))
    return [
        Anomaly(feature="label_name", reason=reason, severity="error", short=short, text=text) for reason, short, text in texts
    ]


def _quoted(labels: list[str]) -> str:
    shown = ", ".join(f"{label!r}" for label in labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
    return f"label{'s' if len(labels) > 1 else ''} {shown}"


def _other_range(expected: Expected, found: Expected, config: ValidateConfig) -> list[Anomaly]:
    span, held = found.maximum - found.minimum, expected.maximum - expected.minimum
    levels = f"grey levels go from {found.minimum} to {found.maximum}"
    range_ = f"{expected.minimum} to {expected.maximum}"
    if span < config.min_range_share * held:
        return [
            Anomaly(
                feature=DATASET, reason="INT_TYPE_SMALL_INT", severity="error", short="Collapsed range", value=span / held,
                limit=config.min_range_share,
                text=f"{levels}, only {span / held:.1%} of the schema's range {range_} (validate.min_range_share allows"
                f" {config.min_range_share:.0%})",
            )
        ]  # fmt: skip
    if found.minimum < expected.minimum or found.maximum > expected.maximum:
        text = f"{levels}, beyond the schema's range {range_}"
        return [Anomaly(feature=DATASET, reason="INT_TYPE_BIG_INT", severity="warning", short="Wider range", text=text)]
    return []
