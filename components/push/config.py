"""The [push] section."""

from __future__ import annotations

from pydantic import Field

from components.section import FolderPath, Section


class PushConfig(Section):
    """When and where a generator is published."""

    registry: FolderPath = Field("", description="Folder of versions and of the champion pointer; empty: run.dir/registry.")
    noise_sigmas: float = Field(
        1.0, ge=0.0, description="The candidate's KID must be better than the champion's by so many standard errors."
    )
    max_memorization: float = Field(
        0.25, ge=0.0, le=1.0, description="Above this share of memorised samples nothing is published; honest is 0.01."
    )
