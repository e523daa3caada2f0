"""The [push] section."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from components.common.section import Section, StoreLocation


class PushConfig(Section):
    """When and where a generator is published."""

    publish: bool = Field(
        True, description="Publish a model that passes the gate; false: score and judge it, and keep the champion in service."
    )
    registry: StoreLocation = Field(
        "",
        description="Folder, gs:// or s3:// URL of the published versions and the champion pointer; default: run.dir/registry.",
    )
    vertex_model: str = Field(
        "", description="Model in Vertex AI's Model Registry to keep up to date: projects/P/locations/L/models/M."
    )
    serving_image: str = Field(
        "us-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-15:latest",
        description="Container image that serves push.vertex_model on Vertex AI.",
    )
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
        0.5,
        ge=0.0,
        le=1.0,
        description="First model of a registry: 0 accepts the KID of noise (ceiling), 1 requires that of real images (floor).",
    )
    max_memorization: float = Field(
        0.25,
        ge=0.0,
        le=1.0,
        description="Largest memorization score at which a model is published; about 0.01 without memorization.",
    )

    @field_validator("vertex_model")
    @classmethod
    def _check_vertex_model(cls, name: str) -> str:
        if name and not re.fullmatch(r"projects/[^/@ ]+/locations/[a-z0-9-]+/models/[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", name):
            raise ValueError(
                "use projects/PROJECT/locations/REGION/models/NAME; NAME has at most 63 characters of a-z, 0-9, _ and -"
            )
        return name

    @model_validator(mode="after")
    def _check_vertex_can_read(self) -> Self:
        if self.vertex_model and not self.registry.startswith("gs://"):
            raise ValueError(f"push.vertex_model needs push.registry to be a gs:// URL, not {self.registry!r}")
        return self

    def rule(self) -> dict[str, float]:
        """Return the keys that a decision depends on."""
        return self.model_dump(exclude={"publish", "registry", "vertex_model", "serving_image"})
