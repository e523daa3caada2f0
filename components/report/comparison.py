"""Two finished runs side by side: their configuration and results, and whether their scores can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.common.artifacts import write_text
from components.common.errors import ConfigError, first_line
from components.evaluate.metrics import table
from components.evaluate.provenance import comparable
from components.report.artifact_reader import KINDS, ArtifactReader
from components.report.description import RunDescription
from components.report.formatting import duration, number, plain
from components.report.plots.chart import Chart
from components.report.plots.curves import KID_PLOT, PLOTS, draw_curves
from components.report.rendering import render
from components.report.sections.data import COUNTS
from components.report.sections.training import score_lines
from components.report.summary import RunSummary

SHOWN_CURVES = ("wasserstein_gap", "penalty", "generator_loss")


@dataclass(frozen=True)
class ComparisonRow:
    """A row of a table; `better` is "a", "b", or "" if neither is better or it is not known."""

    name: str
    a: str
    b: str
    better: str = ""


class FinishedRun:
    """A run whose folder has its summary. Raises ConfigError if there is none or it cannot be read."""

    def __init__(self, folder: Path) -> None:
        try:
            self.description = RunDescription.model_validate_json((folder / "run.json").read_bytes())
            self.summary = RunSummary.model_validate_json((folder / "summary.json").read_bytes())
        except OSError as error:
            missing = "run" if not (folder / "run.json").is_file() else "finished run"
            problem = f"There is no {missing} in {folder}: {error.strerror}."
            raise ConfigError(problem, "wgan-pipeline runs lists the runs.") from None
        except ValidationError as error:
            raise ConfigError(
                f"{folder} was written by another version: {first_line(error)}.", "Compare runs of the same version."
            ) from None
        self.ingest, self.evaluate = self.summary.ingest or {}, self.summary.evaluate or {}
        self.run_id, self.status = self.summary.run_id, self.summary.status
        push = self.summary.push or {}
        self.decision = f"{push['decision']} {push.get('version') or ''}".strip() if push else "no decision"
        self.reason = self.summary.error.problem if self.summary.error else str(push.get("reason", ""))
        evaluation = self.open("evaluate")
        self.samples = evaluation.figure("samples.png", f"Grid of samples of {self.run_id}", self.run_id)
        self.notes = evaluation.notes

    def open(self, step: str) -> ArtifactReader:
        """Return the artifact of a step as it is now."""
        return ArtifactReader(KINDS[step], self.summary.artifacts.get(step))


class Comparison:
    """The content of the page: both runs; better scores are marked only if both were measured in the same way."""

    def __init__(self, a: FinishedRun, b: FinishedRun) -> None:
        self.a, self.b = a, b
        both = a.evaluate and b.evaluate
        self.differs = comparable(a.evaluate["provenance"], b.evaluate["provenance"]) if both else []
        self.scores = score_rows(a.evaluate, b.evaluate, mark_better=not self.differs)
        self.charts = _charts(a.open("train"), b.open("train"))
        self.data = [ComparisonRow(name, number(a.ingest.get(name)), number(b.ingest.get(name))) for name in COUNTS]
        digests = [run.summary.artifacts["ingest"].digest for run in (a, b) if "ingest" in run.summary.artifacts]
        self.same_data = digests[0] == digests[1] if len(digests) == 2 else None
        self.times = _times(a.summary, b.summary)
        self.config = config_rows(a.description.config, b.description.config)


def write_comparison(first: Path, second: Path, out: Path) -> None:
    """Write the page that compares the runs in two folders. Raises ConfigError if one is not a finished run."""
    write_text(out, render("compare.html.j2", Comparison(FinishedRun(first), FinishedRun(second))))


def score_rows(a: Mapping[str, Any], b: Mapping[str, Any], *, mark_better: bool) -> tuple[ComparisonRow, ...]:
    """Return the scores of both; with `mark_better`, also which is better, where the metric tells."""
    rows = []
    for metric in table.metrics_on("report"):
        value_a, value_b = a.get(metric.name), b.get(metric.name)
        if value_a is None and value_b is None:
            continue
        gain = metric.gain(value_a, value_b) if mark_better and value_a is not None and value_b is not None else 0.0
        better = "a" if gain > 0 else "b" if gain < 0 else ""
        rows.append(ComparisonRow(metric.title, metric.text(a) or "—", metric.text(b) or "—", better))
    return tuple(rows)


def _charts(a: ArtifactReader, b: ArtifactReader) -> tuple[Chart, ...]:
    if b.manifest is None:
        return ()
    plots = [plot for plot in PLOTS if plot.column in SHOWN_CURVES]
    kid = a.attempt("The scores", lambda: draw_curves([KID_PLOT], score_lines(a), score_lines(b)), ())
    return kid + a.attempt("The curves", lambda: draw_curves(plots, a.lines("metrics.jsonl"), b.lines("metrics.jsonl")), ())


def _times(a: RunSummary, b: RunSummary) -> tuple[ComparisonRow, ...]:
    rows = [ComparisonRow(step, _step_time(a, step), _step_time(b, step)) for step in dict.fromkeys([*a.steps, *b.steps])]
    return (*rows, ComparisonRow("whole run", duration(a.seconds), duration(b.seconds)))


def _step_time(summary: RunSummary, name: str) -> str:
    step = summary.steps.get(name)
    if step is None:
        return "—"
    return step.status if step.cached or step.status == "skipped" else duration(step.seconds)


def config_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[ComparisonRow, ...]:
    """Return the keys whose values differ, dotted and sorted; «—» if a configuration does not have the key."""
    flat = _flat(a), _flat(b)
    names = sorted(name for name in flat[0].keys() | flat[1].keys() if flat[0].get(name) != flat[1].get(name))
    return tuple(ComparisonRow(name, *(plain(side[name]) if name in side else "—" for side in flat)) for name in names)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
