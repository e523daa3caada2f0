"""The decision of a push as numbers that can be compared, and as Markdown."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from components.common.artifacts import read_manifest

CARD_FILE = "model_card.md"  # in the push artifact of a published model


def verdict_numbers(push: Path) -> dict[str, float]:
    """Return `published`, and of each check CHECK_passed and its numbers as CHECK_NUMBER, without those that are not finite.

    `published` is 1 if the model is a version of the registry; what passed is 1, the rest 0. A decision that was made before
    has no checks. Raises ArtifactError when the push artifact cannot be read.
    """
    details = read_manifest(push, "push", verify=False).details
    values: dict[str, Any] = {"published": bool(details["version"]), "champion_kid": details["champion_kid"]}
    for check in details.get("checks", []):
        values[f"{check['name']}_passed"] = check["passed"]
        values |= {f"{check['name']}_{name}": value for name, value in check["numbers"].items()}
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def verdict_markdown(push: Path) -> str:
    """Return the decision, its reason and its checks, and the model card of a published model, without markup from the data.

    Raises ArtifactError when the push artifact cannot be read.
    """
    details = read_manifest(push, "push", verify=False).details
    titles = {"published": f"Published as {details['version']}", "kept": "Not published", "unchanged": "Unchanged"}
    parts = [f"# {titles[details['decision']]}", details["reason"]]
    if details["version"]:
        parts.append(f"Version {details['version']}: `{details['uri']}`")
    if checks := details.get("checks"):
        rows = [f"| {check['name']} | {'yes' if check['passed'] else 'no'} | {_cell(check['sentence'])} |" for check in checks]
        parts.append("\n".join(["| Check | Passed | Why |", "|---|---|---|", *rows]))
    if (card := push / CARD_FILE).is_file():
        parts.append(card.read_text())
    return "\n\n".join(parts).rstrip().replace("<", "&lt;") + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
