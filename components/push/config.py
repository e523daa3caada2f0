"""The [push] section."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from components.common.section import Section, StoreLocation


class PushConfig(Section):
    """Where a generator is published."""

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
