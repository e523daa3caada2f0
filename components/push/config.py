"""The [push] section."""

from __future__ import annotations

from pydantic import Field

from components.section import FolderPath, Section


class PushConfig(Section):
    """When and where a generator is published."""

    registry: FolderPath = Field("", description="Folder of versions and of the champion pointer; empty: run.dir/registry.")
    confidence: float = Field(
        0.95,
        ge=0.5,
        lt=1.0,
        description="The candidate's KID must be better than the champion's in this share of resamplings (bootstrap).",
    )
    coverage_margin: float = Field(
        0.05, ge=0.0, le=1.0, description="The candidate's coverage may be below the champion's by this much."
    )
    first_share: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="A first model's KID must be this share of the way from useless (the ceiling) to real images (the floor).",
    )
    max_memorization: float = Field(
        0.25, ge=0.0, le=1.0, description="Above this share of memorised samples nothing is published; honest is 0.01."
    )

    def rule(self) -> dict[str, float]:
        """Return the keys that a decision rests on."""
        return self.model_dump(exclude={"registry"})
