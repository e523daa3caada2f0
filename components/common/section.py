"""The base of every config section and every summary: frozen, and nothing unknown gets in."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Section(BaseModel):
    """One section of the configuration: immutable, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Summary(BaseModel):
    """What a step tells of itself: a few numbers and words that go into summary.json and the report."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def refuse_address(path: str) -> str:
    """Refuse gs://… and the like where a folder is needed. Raises ValueError with the cure."""
    if "://" in path:
        raise ValueError("name a folder, such as the mounted /gcs/BUCKET/… for gs://BUCKET/…")
    return path


FolderPath = Annotated[str, AfterValidator(refuse_address)]
