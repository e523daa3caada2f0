"""Base classes of the config sections and the summaries: immutable, and unknown keys are refused."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from components.common.store import check_creates


class Section(BaseModel):
    """One section of the configuration: immutable, without unknown keys, and without implicit type conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Summary(BaseModel):
    """The result of a step in a few numbers and words, for summary.json and the report."""

    model_config = ConfigDict(frozen=True, extra="forbid")


StoreLocation = Annotated[str, AfterValidator(check_creates)]  # a folder, or a URL at which several processes can work at once
