"""Runs the stages in order, shows each result as it comes, and keeps first_hour.json and first_hour.md up to date."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from components.common.artifacts import now, write_text
from components.common.errors import ArtifactError, PipelineError
from components.common.section import Summary
from components.tpu_check.first_hour.stages import STAGES, Hour, uses_tpu

NEEDED = ("machine", "replicas")  # without them nothing else can run


class StageResult(Summary):
    """A stage: `status` is passed, failed, or not run because an earlier one failed."""

    name: str
    title: str
    status: str
    seconds: float
    facts: dict[str, str]
    problems: tuple[str, ...]


class FirstHour(Summary):
    """The report. `passed` is true if all stages have passed, on whatever devices; `tpu` says whether these were a TPU."""

    devices: str
    tpu: bool
    started_at: str
    passed: bool
    stages: tuple[StageResult, ...]


def first_hour(hour: Hour, show: Callable[[StageResult], None]) -> FirstHour:
    """Run all stages, write the report into the new folder `hour.folder`, and return it.

    Raises ArtifactError if the folder is not empty or cannot be written.
    """
    _make(hour.folder)
    started_at, done = now(), list[StageResult]()
    for name in STAGES:
        done.append(_result(hour, name, {stage.name: stage.status for stage in done}))
        show(done[-1])
        passed = len(done) == len(STAGES) and all(stage.status == "passed" for stage in done)
        report = FirstHour(
            devices=hour.devices, tpu=uses_tpu(hour.devices), started_at=started_at, passed=passed, stages=tuple(done)
        )
        write_text(hour.folder / "first_hour.json", report.model_dump_json(indent=1) + "\n")
        write_text(hour.folder / "first_hour.md", markdown(report))
    return report


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ArtifactError(f"{folder} is not empty.", "Name a new folder for the report.")
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written ({error.strerror}).", "Name another folder for the report.") from None


def _result(hour: Hour, name: str, before: dict[str, str]) -> StageResult:
    title, stage = STAGES[name]
    started, facts, problems = time.monotonic(), dict[str, str](), list[str]()
    if missing := [needed for needed in NEEDED if before.get(needed, "passed") != "passed"]:
        status, problems = "not run", [f"The stage {missing[0]} has failed."]
    else:
        try:
            facts, problems = stage(hour)
        except PipelineError as error:
            problems = [str(error)]
        status = "failed" if problems else "passed"
    seconds = round(time.monotonic() - started, 1)
    return StageResult(name=name, title=title, status=status, seconds=seconds, facts=facts, problems=tuple(problems))


def markdown(report: FirstHour) -> str:
    """Return the report as a page to read."""
    lines = ["# The first hour on a TPU", "", outcome(report), "", "| Stage | Result | Seconds |", "|---|---|---|"]
    lines += [f"| {stage.name}: {stage.title} | {stage.status} | {stage.seconds:.0f} |" for stage in report.stages]
    for stage in (each for each in report.stages if each.status != "not run"):
        lines += ["", f"## {stage.name}", ""]
        lines += [f"- {name}: {value}" for name, value in stage.facts.items()]
        lines += [f"- **{problem}**" for problem in stage.problems]
    return "\n".join(lines) + "\n"


def outcome(report: FirstHour) -> str:
    """Return in a sentence what was tried, and whether it passed."""
    passed = sum(stage.status == "passed" for stage in report.stages)
    where = f"on {report.devices}, started at {report.started_at}"
    if not report.tpu:
        where += f". **No TPU was used**: with {report.devices} this only shows that the command works"
    return f"{passed} of {len(STAGES)} stages passed {where}."
