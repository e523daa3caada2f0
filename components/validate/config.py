"""The [validate] section."""

from __future__ import annotations

from pydantic import Field

from components.section import Section


class ValidateConfig(Section):
    """What a dataset must at least be."""

    min_train_images: int = Field(64, ge=2, description="Fewer training images than this are refused.")
    min_eval_images: int = Field(16, ge=2, description="Fewer held-out images than this are refused.")
    min_deviation: float = Field(
        1.0, ge=0.0, description="Grey levels; a split whose pixels deviate less in every channel is called constant."
    )
