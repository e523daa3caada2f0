"""The schema: what all later snapshots of a source must match, inferred from the first one."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from components.common.errors import ArtifactError, first_line
from components.common.section import Frozen
from components.validate.anomalies import DATASET, Anomaly
from components.validate.config import ValidateConfig
from components.validate.statistics.statistics import SplitStatistics

FILE = "schema.json"


class ImageSchema(Frozen):
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


def read(folder: Path) -> ImageSchema:
    """Read the schema of a snapshot. Raises ArtifactError when the file cannot be read or lacks a value."""
    try:
        return ImageSchema.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtifactError(
            f"The schema in {folder} cannot be read: {first_line(error)}.",
            "Restore it from a backup, or name another validate.history.",
        ) from error


def violations(schema: ImageSchema, found: ImageSchema, config: ValidateConfig) -> list[Anomaly]:
    """Return how a dataset, with the schema `found`, violates `schema`; grey levels beyond the range are a warning."""
    anomalies = []
    if schema.shape != found.shape:
        ours, theirs = ("×".join(map(str, side.shape)) for side in (found, schema))
        feature = "image_size" if schema.image_size != found.image_size else "image_channels"
        anomalies.append(Anomaly(feature=feature, text=f"images are {ours}, the schema requires {theirs}"))
    if new := sorted(set(found.labels) - set(schema.labels)):
        anomalies.append(Anomaly(feature="label_name", text=f"the schema does not have {_quoted(new)}"))
    if missing := sorted(set(schema.labels) - set(found.labels)):
        anomalies.append(Anomaly(feature="label_name", text=f"no image has {_quoted(missing)} of the schema"))
    return [*anomalies, *_range_violations(schema, found, config)]


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
        return [Anomaly(feature=DATASET, text=text, value=share, limit=least)]
    if found.minimum < schema.minimum or found.maximum > schema.maximum:
        return [Anomaly(feature=DATASET, severity="warning", text=f"{levels}, beyond {range_}")]
    return []
