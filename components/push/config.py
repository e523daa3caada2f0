"""The [push] section."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from components.section import Section

# Whose file systems can make an object on the condition that there is none of its name: tests/unit/test_push_address.py.
SCHEMES = ("gs", "gcs", "memory")


def check_place(place: str) -> str:
    """Refuse an address behind which no pointer can be moved safely. Raises ValueError with the cure."""
    scheme, separator, _ = place.partition("://")
    if separator and scheme not in (*SCHEMES, "file"):
        raise ValueError(f"two pushes at once would not notice each other on {scheme}://; name a folder or a gs:// address")
    return place


class PushConfig(Section):
    """When and where a generator is published."""

    registry: Annotated[str, AfterValidator(check_place)] = Field(
        "", description="Folder or gs:// address of versions and of the champion pointer; empty: run.dir/registry."
    )
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
