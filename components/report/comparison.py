"""Two finished runs side by side: what they were asked to do, what came out, and whether their scores can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.common.artifacts import write_text
from components.common.errors import ConfigError, first_line
from components.evaluate.provenance import comparable
from components.report import formatting
from components.report.artifact_reader import Opened
from components.report.description import RunDescription
from components.report.formatting import duration, number, plain
from components.report.page import KINDS
from components.report.plots.curves import PLOTS, SCORE_PLOTS, Chart, draw_charts
from components.report.plots.figures import Figure
from components.report.run import environment, style
from components.report.sections.scores import MEANINGS
from components.report.sections.training import score_lines, show_image
from components.report.summary import RunSummary

TEMPLATE = "compare.html.j2"
SHOWN_CURVES = ("wasserstein_gap", "penalty", "generator_loss")
COUNTS = ("read", "kept", "duplicate", "quarantined", "train", "eval")


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    run_id: str
    status: str
    decision: str
    reason: str
    samples: Figure | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """What one line of a table says of both; `better` is "a", "b" or "" where neither is or nobody can tell."""

    name: str
    a: str
    b: str
    better: str = ""


@dataclass(frozen=True)
class Comparison:
    """What the template draws."""

    a: Side
    b: Side
    scores: tuple[Row, ...]
    differs: tuple[str, ...]
    charts: tuple[Chart, ...]
    data: tuple[Row, ...]
    same_data: bool | None
    times: tuple[Row, ...]
    config: tuple[Row, ...]


class FinishedRun:
    """A run that has its summary: description, summary and artifacts as they were when it ended."""

    def __init__(self, folder: Path) -> None:
        try:
            self.description = RunDescription.model_validate_json((folder / "run.json").read_bytes())
            self.summary = RunSummary.model_validate_json((folder / "summary.json").read_bytes())
        except OSError as error:
            missing = "run" if not (folder / "run.json").is_file() else "finished run"
            raise ConfigError(
                f"There is no {missing} in {folder}: {error.strerror}.", "wgan-pipeline runs lists them."
            ) from None
        except ValidationError as error:
            problem = first_line(error)
            raise ConfigError(f"{folder} was not written by this version: {problem}.", "Compare runs of one version.") from None
        self.sections: dict[str, dict[str, Any]] = {
            step: getattr(self.summary, "validation" if step == "validate" else step) or {} for step in KINDS
        }

    def open(self, step: str) -> Opened:
        """Return the artifact of a step, as it is now."""
        return Opened(KINDS[step], KINDS[step], self.summary.artifacts.get(step), self.sections[step])


def write_comparison(first: Path, second: Path, out: Path) -> None:
    """Write the page that compares the runs in two folders. Raises ConfigError where one is no finished run."""
    page = compare(FinishedRun(first), FinishedRun(second))
    write_text(out, environment().get_template(TEMPLATE).render(page=page, style=style(), words=formatting))


def compare(a: FinishedRun, b: FinishedRun) -> Comparison:
    """Return both runs side by side; scores are set against each other only where they were measured alike."""
    ours, theirs = a.sections["evaluate"], b.sections["evaluate"]
    differs = comparable(ours["provenance"], theirs["provenance"]) if ours and theirs else []
    digests = [run.summary.artifacts[step].digest for run in (a, b) for step in ["ingest"] if step in run.summary.artifacts]
    return Comparison(
        a=_side(a),
        b=_side(b),
        scores=score_rows(ours, theirs, alike=not differs),
        differs=tuple(differs),
        charts=_charts(a.open("train"), b.open("train")),
        data=tuple(Row(name, *(_count(run, name) for run in (a, b))) for name in COUNTS),
        same_data=digests[0] == digests[1] if len(digests) == 2 else None,
        times=_times(a.summary, b.summary),
        config=config_rows(a.description.config, b.description.config),
    )


def _side(run: FinishedRun) -> Side:
    evaluation, push = run.open("evaluate"), run.sections["push"]
    name = run.summary.run_id
    samples = evaluation.manifest and show_image(evaluation, "samples.png", f"Grid of samples of {name}", name)
    failed = run.summary.error.problem if run.summary.error else ""
    decision = f"{push['decision']} {push.get('version') or ''}".strip() if push else "no decision"
    return Side(
        name,
        run.summary.status,
        decision,
        failed or str(push.get("reason", "")),
        samples or None,
        tuple(evaluation.notes),
    )


def score_rows(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, alike: bool) -> tuple[Row, ...]:
    """Return the scores of both; the better one is named only where they were measured alike and a score has a better end."""
    rows = []
    for key, name, better, _ in MEANINGS:
        a, b = ours.get(key), theirs.get(key)
        if a is None and b is None:
            continue
        gain = _gain(better, a, b) if alike and a is not None and b is not None else 0
        rows.append(Row(name, number(a, 4), number(b, 4), "a" if gain > 0 else "b" if gain < 0 else ""))
    return tuple(rows)


def _gain(better: str, a: float, b: float) -> float:
    """Return how much better `a` is than `b` in the words of MEANINGS; 0 where they name no best end."""
    if better == "1 is best":
        return abs(b - 1.0) - abs(a - 1.0)
    return {"lower is better": b - a, "0 is best": b - a, "more is better": a - b, "all is best": a - b}.get(better, 0.0)


def _charts(a: Opened, b: Opened) -> tuple[Chart, ...]:
    if a.manifest is None or b.manifest is None:
        return ()
    plots = tuple(plot for plot in PLOTS if plot[0] in SHOWN_CURVES)
    judged = a.attempt("The scores", lambda: draw_charts(score_lines(a), 0, SCORE_PLOTS, score_lines(b))) or ()
    metrics = "metrics.jsonl"
    return judged + (a.attempt("The curves", lambda: draw_charts(a.lines(metrics), 0, plots, b.lines(metrics))) or ())


def _count(run: FinishedRun, name: str) -> str:
    return number(run.sections["ingest"].get(name))


def _times(a: RunSummary, b: RunSummary) -> tuple[Row, ...]:
    steps = [*a.steps, *(step for step in b.steps if step not in a.steps)]
    rows = [Row(step, *(_step_time(summary, step) for summary in (a, b))) for step in steps]
    return (*rows, Row("whole run", duration(a.seconds), duration(b.seconds)))


def _step_time(summary: RunSummary, step: str) -> str:
    found = summary.steps.get(step)
    if found is None:
        return "—"
    return found.status if found.cached or found.status == "skipped" else duration(found.seconds)


def config_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Row, ...]:
    """Return the keys whose values differ, dotted and sorted; «—» where a config has no such key."""
    flat_a, flat_b = _flat(a), _flat(b)
    names = sorted(name for name in flat_a.keys() | flat_b.keys() if flat_a.get(name) != flat_b.get(name))
    return tuple(Row(name, *(plain(flat[name]) if name in flat else "—" for flat in (flat_a, flat_b))) for name in names)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
