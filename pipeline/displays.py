"""What steps show in a platform's user interface: Metrics to compare runs by, and HTML and Markdown to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.common.artifacts import write_json, write_text
from components.common.section import Summary

Content = Mapping[str, float] | str
Folders = Mapping[str, Path]


def fill_displays(step: str, summary: Summary, out: Path, inputs: Folders, displays: Mapping[str, Any]) -> None:
    """Write the contents of a step's `displays`, KFP artifacts by name, from its summary and artifacts.

    Numbers go into the metadata of a Metrics artifact, and into a file: KFP's local cache takes an artifact without a file for
    a lost one. Text is the file of an HTML or Markdown artifact. Raises ArtifactError when a file cannot be written.
    """
    contents = CONTENTS[step](summary, out, inputs) if displays else {}
    for name, content in contents.items():
        artifact = displays[name]
        if isinstance(content, str):
            write_text(Path(artifact.path), content)
        else:
            artifact.metadata.update(content)
            write_json(Path(artifact.path), dict(content))


# Each imports what it needs when it runs: the image of train on a TPU has only the packages of train.


def _validate(_: Summary, out: Path, inputs: Folders) -> dict[str, Content]:
    from components.report.sections.validation import validation_page

    return {"findings": validation_page(inputs["dataset"], out)}


def _train(summary: Summary, out: Path, _: Folders) -> dict[str, Content]:
    from components.report.sections.training import training_page

    return {"curves": training_page(out, summary.model_dump(mode="json"))}


def _evaluate(summary: Summary, _: Path, __: Folders) -> dict[str, Content]:
    from components.evaluate.metrics.table import finite_values
    from components.report.sections.scores import scores_markdown

    scores = summary.model_dump(mode="json")
    return {"metrics": finite_values(scores), "scores": scores_markdown(scores)}


def _gate(_: Summary, out: Path, __: Folders) -> dict[str, Content]:
    from components.gate.verdict import read_verdict, verdict_markdown, verdict_numbers

    verdict = read_verdict(out)
    return {"metrics": verdict_numbers(verdict), "checks": verdict_markdown(verdict)}


def _push(_: Summary, out: Path, __: Folders) -> dict[str, Content]:
    from components.push.outcome import outcome_markdown, outcome_numbers

    return {"metrics": outcome_numbers(out), "outcome": outcome_markdown(out)}


CONTENTS: Mapping[str, Callable[[Summary, Path, Folders], dict[str, Content]]] = {
    "validate": _validate,
    "train": _train,
    "evaluate": _evaluate,
    "gate": _gate,
    "push": _push,
}
