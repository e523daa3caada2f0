"""The [validate] section."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from components.common.section import FolderPath, Section


class ValidateConfig(Section):
    """What a dataset must be, by itself and beside the last one that was accepted. Drift that sampling explains passes."""

    min_train_images: int = Field(64, ge=2, description="Fewer training images than this are refused.")
    min_eval_images: int = Field(16, ge=2, description="Fewer held-out images than this are refused.")
    min_deviation: float = Field(
        1.0, ge=0.0, description="Grey levels; a split whose pixels deviate less in every channel is called constant."
    )
    blank_deviation: float = Field(
        2.0, ge=0.0, description="Grey levels; an image whose pixels deviate less from their mean is near-blank."
    )
    history: FolderPath = Field(
        "", description="Folder of accepted snapshots; empty: run.dir/snapshots/SOURCE, or none when run by hand."
    )
    accept: str = Field(
        "", pattern="^(s[0-9a-f]{12})?$", description="Id of a snapshot to accept although it differs or drifted."
    )
    min_images_share: float = Field(
        0.5, ge=0.0, le=1.0, description="A smaller share of the images of the last accepted snapshot is refused."
    )
    min_range_share: float = Field(
        0.5, ge=0.0, le=1.0, description="A smaller share of the schema's range of grey levels is refused."
    )
    warn_label_drift: float = Field(0.01, ge=0.0, description="L-infinity distance of label shares that is worth a warning.")
    max_label_drift: float = Field(0.05, ge=0.0, description="L-infinity distance of label shares that is refused.")
    warn_histogram_drift: float = Field(
        0.001, ge=0.0, description="Jensen-Shannon divergence of a histogram, in bits, that is worth a warning."
    )
    max_histogram_drift: float = Field(
        0.005, ge=0.0, description="Jensen-Shannon divergence of a histogram, in bits, that is refused."
    )
    warn_blank_drift: float = Field(0.001, ge=0.0, description="Rise of the near-blank share that is worth a warning.")
    max_blank_drift: float = Field(0.005, ge=0.0, description="Rise of the near-blank share that is refused.")
    false_alarms: float = Field(
        1e-3, gt=0.0, lt=0.5, description="Chance that any drift is reported for two samples of the same source."
    )
    beam_options: tuple[str, ...] = Field(
        (),
        strict=False,
        description="Options handed to Beam unchanged; none: small datasets need no Beam, others all cores.",
    )

    @model_validator(mode="after")
    def _warnings_come_first(self) -> Self:
        for name in ("label", "histogram", "blank"):
            warn, most = getattr(self, f"warn_{name}_drift"), getattr(self, f"max_{name}_drift")
            if warn > most:
                raise ValueError(f"warn_{name}_drift = {warn:g} is more than max_{name}_drift = {most:g}")
        return self
