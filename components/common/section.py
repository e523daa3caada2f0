"""Base classes of the config sections, the summaries and all that is stored as JSON: immutable, unknown keys are refused."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from components.common.store import check_creates


class Frozen(BaseModel):
    """Immutable, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Section(Frozen):
    """One section of the configuration, without implicit type conversion."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Summary(Frozen):
    """The result of a step in a few numbers and words, for summary.json and the report."""


StoreLocation = Annotated[str, AfterValidator(check_creates)]  # a folder, or a URL at which several processes can work at once
