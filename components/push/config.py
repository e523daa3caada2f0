"""The [push] section."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from components.common.section import Section

# Whose file systems can create an object only if it does not exist: tests/unit/push/registry/test_remote.py.
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
    vertex_model: str = Field(
        "", description="projects/P/locations/L/models/M: tell Vertex AI's Model Registry which version is in service."
    )
    serving_image: str = Field(
        "us-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-15:latest", description="The image that serves push.vertex_model."
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

    @field_validator("vertex_model")
    @classmethod
    def _model_of_vertex(cls, name: str) -> str:
        if name and not re.fullmatch(r"projects/[^/@ ]+/locations/[a-z0-9-]+/models/[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", name):
            raise ValueError("use projects/PROJECT/locations/REGION/models/NAME, a name of up to 63 of a-z, 0-9, _ and -")
        return name

    @model_validator(mode="after")
    def _vertex_can_read(self) -> Self:
        if self.vertex_model and not self.registry.startswith("gs://"):
            raise ValueError(f"push.vertex_model needs push.registry at a gs:// address, it is {self.registry!r}")
        return self

    def rule(self) -> dict[str, float]:
        """Return the keys that a decision rests on."""
        return self.model_dump(exclude={"registry", "vertex_model", "serving_image"})
