"""The schema: inferred from the first snapshot and stored as tensorflow-metadata's Schema, which TFDV reads too."""

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


class ImageSchema(NamedTuple):
    """The size and channels of the images, the names of the labels, and the range of grey levels."""

    image_size: int
    channels: int
    labels: tuple[str, ...]
    minimum: int
    maximum: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of an image, [H, W, C]."""
        return self.image_size, self.image_size, self.channels


def infer(splits: dict[str, SplitStatistics]) -> ImageSchema:
    """Return the schema of a dataset, both splits together."""
    parts = list(splits.values())
    return ImageSchema(
        image_size=parts[0].shape[0],
        channels=parts[0].shape[2],
        labels=tuple(sorted({label for part in parts for label in part.label_histogram})),
        minimum=min(part.minimum for part in parts),
        maximum=max(part.maximum for part in parts),
    )


def to_proto(schema: ImageSchema, config: ValidateConfig) -> Any:
    """Return the Schema proto: the features of a record, and derived ones with the lifecycle VALIDATION_DERIVED."""
    proto = schema_pb2.Schema()
    for name, kind in (("image", schema_pb2.BYTES), ("id", schema_pb2.BYTES), ("label", schema_pb2.INT)):
        feature = proto.feature.add(name=name, type=kind)
        feature.presence.min_fraction = 1.0
        feature.value_count.min = feature.value_count.max = 1

    def derived(name: str, kind: int) -> Any:
        feature = proto.feature.add(name=name, type=kind, lifecycle_stage=schema_pb2.VALIDATION_DERIVED)
        feature.validation_derived_source.deriver_name = DERIVER
        return feature

    for name, value in (("image_size", schema.image_size), ("image_channels", schema.channels)):
        domain = derived(name, schema_pb2.INT).int_domain
        domain.min = domain.max = value
    labels = derived("label_name", schema_pb2.BYTES)
    labels.string_domain.value.extend(schema.labels)
    labels.drift_comparator.infinity_norm.threshold = config.max_label_drift
    for channel in range(schema.channels):
        feature = derived(f"channel_{channel}", schema_pb2.INT)
        feature.int_domain.min, feature.int_domain.max = schema.minimum, schema.maximum
        feature.drift_comparator.jensen_shannon_divergence.threshold = config.max_histogram_drift
    for name in ("brightness", "contrast"):
        feature = derived(name, schema_pb2.FLOAT)
        feature.drift_comparator.jensen_shannon_divergence.threshold = config.max_histogram_drift
    return proto


def read(file: Path) -> ImageSchema:
    """Read a schema. Raises ArtifactError when the file cannot be read or lacks a feature."""
    try:
        proto = text_format.Parse(file.read_text(), schema_pb2.Schema())
        features = {feature.name: feature for feature in proto.feature}
        return ImageSchema(
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


def violations(schema: ImageSchema, found: ImageSchema, config: ValidateConfig) -> list[Anomaly]:
    """Return how a dataset, with the schema `found`, violates `schema`; grey levels beyond the range are a warning."""
    anomalies = []
    if schema.shape != found.shape:
        ours, theirs = ("×".join(map(str, side.shape)) for side in (found, schema))
        feature = "image_size" if schema.image_size != found.image_size else "image_channels"
        text = f"images are {ours}, the schema requires {theirs}"
        anomalies.append(_error(feature, "INVALID_FEATURE_SHAPE", "Other images", text))
    if new := sorted(set(found.labels) - set(schema.labels)):
        text = f"the schema does not have {_quoted(new)}"
        anomalies.append(_error("label_name", "ENUM_TYPE_UNEXPECTED_STRING_VALUES", "New label", text))
    if missing := sorted(set(schema.labels) - set(found.labels)):
        text = f"no image has {_quoted(missing)} of the schema"
        anomalies.append(_error("label_name", "FEATURE_COVERAGE_TOO_LOW", "Missing label", text))
    return [*anomalies, *_range_violations(schema, found, config)]


def _error(feature: str, reason: str, short: str, text: str, **fields: float) -> Anomaly:
    return Anomaly(feature=feature, reason=reason, severity="error", short=short, text=text, **fields)


def _quoted(labels: list[str]) -> str:
    shown = ", ".join(f"{label!r}" for label in labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
    return f"label{'s' if len(labels) > 1 else ''} {shown}"


def _range_violations(schema: ImageSchema, found: ImageSchema, config: ValidateConfig) -> list[Anomaly]:
    span, required = found.maximum - found.minimum, schema.maximum - schema.minimum
    levels = f"grey levels go from {found.minimum} to {found.maximum}"
    range_ = f"the schema's range {schema.minimum} to {schema.maximum}"
    if span < config.min_range_share * required:
        share, least = span / required, config.min_range_share
        text = f"{levels}, only {share:.1%} of {range_} (validate.min_range_share requires {least:.0%})"
        return [_error(DATASET, "INT_TYPE_SMALL_INT", "Collapsed range", text, value=share, limit=least)]
    if found.minimum < schema.minimum or found.maximum > schema.maximum:
        text = f"{levels}, beyond {range_}"
        return [Anomaly(feature=DATASET, reason="INT_TYPE_BIG_INT", severity="warning", short="Wider range", text=text)]
    return []
