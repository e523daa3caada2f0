"""The [gate] section."""

from __future__ import annotations

from pydantic import Field

from components.common.section import Section, StoreLocation


class GateConfig(Section):
    """The rule that decides whether a generator may be published."""

    confidence: float = Field(
        0.95,
        ge=0.5,
        lt=1.0,
        description="Share of bootstrap resamplings in which the candidate's KID must be better than the champion's.",
    )
    coverage_margin: float = Field(
        0.05, ge=0.0, le=1.0, description="How far the candidate's coverage may be below the champion's."
    )
    first_share: float = Field(
        0.25,
        ge=0.0,
        le=1.0,
        description="First model of a registry: the share of the precision, recall and coverage of real images that it needs; "
        "and how far its KID must be from that of useless images, on a logarithmic scale. 0 accepts every model.",
    )
    max_memorization: float = Field(
        0.25,
        ge=0.0,
        le=1.0,
        description="Largest memorization score at which a model is published; about 0.01 without memorization.",
    )

    def rule(self) -> dict[str, float]:
        """Return the keys that a verdict depends on."""
        return self.model_dump(include=set(GateConfig.model_fields))


class GateTask(GateConfig):
    """What the step gets: the section, and the registry of the [push] section, whose champion it compares with."""

    registry: StoreLocation = ""
