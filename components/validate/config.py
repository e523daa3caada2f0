"""The [validate] section."""

from __future__ import annotations

from pydantic import Field

from components.common.section import Section, StoreLocation


class ValidateConfig(Section):
    """Requirements for a dataset, alone and against the last accepted snapshot. Drift within the sampling noise passes."""

    min_train_images: int = Field(64, ge=2, description="Minimum number of training images.")
    min_eval_images: int = Field(16, ge=2, description="Minimum number of held-out images.")
    min_deviation: float = Field(
        1.0,
        ge=0.0,
        description="Minimum standard deviation of a split's pixels in grey levels, in at least one channel; below it, the"
        " images are constant and refused.",
    )
    blank_deviation: float = Field(
        2.0, ge=0.0, description="An image is near-blank if the standard deviation of its pixels is below this, in grey levels."
    )
    history: StoreLocation = Field(
        "",
        description="Folder, gs:// or s3:// URL of the accepted snapshots. Empty: run.dir/snapshots/SOURCE, or no history when"
        " the component is run on its own.",
    )
    accept: str = Field(
        "", pattern="^(s[0-9a-f]{12})?$", description="Id of a snapshot to accept although it violates the schema or drifted."
    )
    min_images_share: float = Field(
        0.5, ge=0.0, le=1.0, description="Minimum number of images, as a share of the last accepted snapshot's."
    )
    min_range_share: float = Field(
        0.5, ge=0.0, le=1.0, description="Minimum range of grey levels, as a share of the schema's range."
    )
    max_label_drift: float = Field(
        0.05, ge=0.0, description="Maximum L-infinity distance of label shares. Above a fifth of it, there is a warning."
    )
    max_histogram_drift: float = Field(
        0.005,
        ge=0.0,
        description="Maximum Jensen-Shannon divergence of a histogram, in bits. Above a fifth of it, there is a warning.",
    )
    max_blank_drift: float = Field(
        0.005, ge=0.0, description="Maximum rise of the near-blank share. Above a fifth of it, there is a warning."
    )
    false_alarms: float = Field(
        1e-3, gt=0.0, lt=0.5, description="Probability that drift is reported for two samples of the same source."
    )
    beam_options: tuple[str, ...] = Field(
        (),
        strict=False,
        description="Options passed to Beam. Without any, small datasets are counted without Beam, others on all cores.",
    )
