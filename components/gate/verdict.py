"""The verdict on a model, which gate writes and push carries out; as an artifact, as numbers, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.artifacts import read_manifest
from components.common.errors import ArtifactError, first_line
from components.gate.config import GateConfig

VERDICT_FILE = "verdict.json"
CHAMPION_SAMPLES = "champion_samples.png"  # beside it: copied for the report, which does not read the registry


@dataclass(frozen=True)
class Check:
    """One condition of the gate: whether it is met, a sentence with the measured and the required number, and the numbers."""

    name: str
    passed: bool
    sentence: str
    numbers: dict[str, float]


class Verdict(BaseModel):
    """Whether a model may be published, why, and everything that this depends on.

    `unchanged` says that an earlier push decided on the model and nothing that the decision depends on has changed since;
    `version` is the one that the model is published as already. `champion` is the version that the model was compared with:
    its digest, and its scores and their evidence as measured beside the candidate, which an unchanged verdict does not repeat.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    blessed: bool
    unchanged: bool = False
    reason: str
    version: str = ""
    champion: str
    champion_digest: str
    champion_kid: float | None
    champion_scores: dict[str, Any] | None = None
    evidence: dict[str, float] | None = None
    checks: tuple[Check, ...]
    digests: dict[str, str]  # of model, evaluation and validation
    rule: GateConfig

    @property
    def decision(self) -> str:
        """The verdict in a word or two."""
        return "unchanged" if self.unchanged else "blessed" if self.blessed else "not blessed"

    def check_is_on(self, digests: Mapping[str, str]) -> None:
        """Raise ArtifactError unless the verdict is on the artifacts with these digests, by name."""
        other = [name for name, digest in digests.items() if self.digests.get(name) != digest]
        if other:
            raise ArtifactError(f"The verdict is on another {' and '.join(other)}.", "Run gate on this model.")


def read_verdict(folder: Path) -> Verdict:
    """Read a verdict artifact. Raises ArtifactError when it is missing, damaged, or something else."""
    read_manifest(folder, "verdict")
    try:
        return Verdict.model_validate_json((folder / VERDICT_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{folder / VERDICT_FILE} cannot be read: {first_line(error)}.", "Run gate again.") from error


def verdict_numbers(verdict: Verdict) -> dict[str, float]:
    """Return `blessed`, and of each check CHECK_passed and its numbers as CHECK_NUMBER; what passed is 1, the rest 0."""
    values: dict[str, float | None] = {"blessed": verdict.blessed, "champion_kid": verdict.champion_kid}
    for check in verdict.checks:
        values[f"{check.name}_passed"] = check.passed
        values |= {f"{check.name}_{name}": value for name, value in check.numbers.items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def verdict_markdown(verdict: Verdict) -> str:
    """Return the verdict, its reason and its checks, without markup from the data."""
    return as_text(f"# {verdict.decision.capitalize()}", verdict.reason, checks_table(verdict))


def checks_table(verdict: Verdict) -> str:
    """Return the checks as a table in Markdown; empty if there are none."""
    rows = [f"| {check.name} | {'yes' if check.passed else 'no'} | {_cell(check.sentence)} |" for check in verdict.checks]
    return "\n".join(["| Check | Passed | Why |", "|---|---|---|", *rows]) if rows else ""


def as_text(*parts: str) -> str:
    """Return paragraphs of Markdown in which no text from the data is markup; empty ones are left out."""
    return "\n\n".join(filter(None, parts)).rstrip().replace("<", "&lt;") + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
