"""What a push has done, as numbers that can be compared, and as Markdown."""

from __future__ import annotations

from pathlib import Path

from components.common.artifacts import read_manifest
from components.gate.verdict import VERDICT_FILE, Verdict, as_text, checks_table, verdict_numbers

CARD_FILE = "model_card.md"  # in the push artifact of a published model


def outcome_numbers(push: Path) -> dict[str, float]:
    """Return `published`, 1 if the model is a version of the registry, else 0; with the verdict's numbers if push judged again.

    Raises ArtifactError when the push artifact cannot be read.
    """
    published = float(bool(read_manifest(push, "push", verify=False).details["version"]))
    again = _second_verdict(push)
    return {"published": published} | (verdict_numbers(again) if again else {})


def outcome_markdown(push: Path) -> str:
    """Return what was done and why, and the model card of a published model, without markup from the data.

    Raises ArtifactError when the push artifact cannot be read.
    """
    details = read_manifest(push, "push", verify=False).details
    titles = {"published": f"Published as {details['version']}", "kept": "Not published", "unchanged": "Unchanged"}
    version = f"Version {details['version']}: `{details['uri']}`" if details["version"] else ""
    again = _second_verdict(push)
    table = f"Judged again, because the champion changed after the gate:\n\n{checks_table(again)}" if again else ""
    card = (push / CARD_FILE).read_text() if (push / CARD_FILE).is_file() else ""
    return as_text(f"# {titles[details['decision']]}", details["reason"], version, table, card)


def _second_verdict(push: Path) -> Verdict | None:
    """Return the verdict of the push itself, which replaced that of the gate; None if it carried that out."""
    file = push / VERDICT_FILE
    return Verdict.model_validate_json(file.read_bytes()) if file.is_file() else None
