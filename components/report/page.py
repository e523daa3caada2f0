"""Everything the page shows, gathered from the journal and the artifacts of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.report.artifact_reader import Opened, open_outcome, open_unfinished_training
from components.report.description import RunDescription
from components.report.formatting import duration, moment, number, plain
from components.report.outcomes import BROKEN, Failure, Outcome
from components.report.plots.figures import Figure
from components.report.plots.scale import Scale, list_scales
from components.report.sections.blind import BlindTest, blind_test
from components.report.sections.champion import Champion, describe_champion
from components.report.sections.data_in import Data, describe_data
from components.report.sections.lineage import Graph, Made, draw_graph, list_made
from components.report.sections.scores import Evaluation, describe_evaluation
from components.report.sections.training import Training, describe_training
from components.report.sections.validation import open_refused
from components.report.sections.verdict import Verdict, reach_verdict
from components.report.summary import RunSummary

KINDS = {
    "ingest": "dataset",
    "validate": "validation",
    "tpu_check": "tpu_check",
    "train": "model",
    "evaluate": "evaluation",
    "push": "push",
}


@dataclass(frozen=True)
class Timing:
    """One step's time: as text, and as a bar in percent of the longest."""

    step: str
    status: str
    text: str
    length: float


@dataclass(frozen=True)
class Page:
    """What the template draws; each of its sections may be empty."""

    run: RunDescription
    summary: RunSummary
    verdict: Verdict
    facts: tuple[tuple[str, str], ...]
    timings: tuple[Timing, ...]
    elsewhere: str
    training: Training
    evaluation: Evaluation
    scales: tuple[Scale, ...]
    champion: Champion | None
    blind: BlindTest | None
    data: Data
    made: tuple[Made, ...]
    graph: Graph | None
    config: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    notes: tuple[str, ...]

    @property
    def final_samples(self) -> Figure | None:
        """The grid of the finished model, or the last one of the training where the model was not scored."""
        over_time = self.training.over_time
        return self.evaluation.samples or (over_time[-1] if over_time else None)

    @property
    def absent(self) -> tuple[str, ...]:
        """The sections that have nothing to show, because their step did not finish."""
        sections = {
            "samples": self.final_samples,
            "scores": self.evaluation.scores or self.evaluation.notes,
            "training curves": self.training.charts or self.training.notes,
            "data": not self.data.empty,
        }
        return tuple(name for name, content in sections.items() if not content)


def gather_page(
    description: RunDescription,
    summary: RunSummary,
    outcomes: tuple[Outcome, ...],
    failure: Failure | None,
    notes: Sequence[str] = (),
) -> Page:
    """Return everything the page shows. Missing and damaged artifacts become notes, never exceptions."""
    opened = {outcome.step: open_outcome(outcome, KINDS[outcome.step]) for outcome in outcomes}
    model = opened["train"]
    if any(outcome.step == "train" and outcome.status in BROKEN for outcome in outcomes):
        model = open_unfinished_training(Path(description.work_dir), description.config.get("train", {}))
    evaluated, dataset = opened["evaluate"], opened["ingest"]
    validation = opened["validate"]
    if any(outcome.step == "validate" and outcome.status in BROKEN for outcome in outcomes):
        validation = open_refused(description.config.get("validate", {}), dataset)
    champion = describe_champion(opened["push"], evaluated.summary)
    made = list_made(outcomes, {step: artifact.manifest for step, artifact in opened.items()})
    return Page(
        run=description,
        summary=summary,
        verdict=reach_verdict(summary.status, outcomes, failure),
        facts=headline_facts(summary),
        timings=list_timings(outcomes),
        elsewhere=duration(max(0.0, summary.seconds - sum(outcome.seconds for outcome in outcomes))),
        training=describe_training(model),
        evaluation=describe_evaluation(evaluated),
        scales=evaluated.attempt("Floor and ceiling", lambda: _scales(evaluated, champion)) or (),
        champion=champion,
        blind=evaluated.attempt("The blind test", lambda: blind_test(dataset, evaluated, description.run_id)),
        data=describe_data(dataset, validation),
        made=made,
        graph=draw_graph(made),
        config=config_tables(description.config),
        notes=(*notes, *opened["push"].notes),
    )


def _scales(evaluated: Opened, champion: Champion | None) -> tuple[Scale, ...]:
    if evaluated.manifest is None:
        return ()
    return list_scales(json.loads(evaluated.content("scores.json")), champion.scores if champion else None)


def headline_facts(summary: RunSummary) -> tuple[tuple[str, str], ...]:
    """Return the few numbers beside the headline as (label, text)."""
    train, evaluate, checked = summary.train or {}, summary.evaluate or {}, summary.tpu_check or {}
    cached = sum(step.cached for step in summary.steps.values())
    facts = [("Started", moment(summary.started_at)), ("Took", duration(summary.seconds))]
    if cached:
        facts.append(("From the cache", f"{cached} of {len(summary.steps)} steps"))
    if checked.get("compiled"):
        memory = f"{checked['peak_hbm_bytes'] / 1e9:.2f} of {checked['hbm_bytes'] / 1e9:.1f} GB of HBM"
        speed = f"at most {number(round(checked['images_per_second_at_most']))} images/s"
        facts.append((f"Compiled for {checked['topology']}", f"{memory}, {speed}"))
    if train.get("rounds") is not None:
        facts.append(("Trained", f"{number(train['rounds'])} rounds, {number(train.get('images_seen'))} images"))
    if train.get("critic_images_per_second") is not None:
        facts.append(("Speed", f"{number(round(train['critic_images_per_second']))} critic images/s"))
    if train.get("exported_round") not in (None, train.get("rounds")):
        facts.append(("Model of", f"round {number(train['exported_round'])}, which scored best"))
    if train.get("started_from"):
        facts.append(("Started from", str(train["started_from"])))
    elif train.get("why_from_scratch"):
        facts.append(("Started from", f"scratch: {train['why_from_scratch']}"))
    if train.get("resumed_from_round"):
        facts.append(("Resumed", f"from round {number(train['resumed_from_round'])}"))
    if evaluate.get("fid") is not None:
        facts.append(("FID", number(evaluate["fid"], 3)))
    return tuple(facts)


def list_timings(outcomes: tuple[Outcome, ...]) -> tuple[Timing, ...]:
    """Return each step's time in this run; for one from the cache also what it took when it ran."""
    longest = max(outcome.seconds for outcome in outcomes) or 1.0
    return tuple(
        Timing(outcome.step, outcome.status, _timing_text(outcome), 100 * outcome.seconds / longest) for outcome in outcomes
    )


def _timing_text(outcome: Outcome) -> str:
    if outcome.status == "skipped":
        return "did not run"
    if outcome.status == "cached":
        return f"{duration(outcome.record.seconds)} when it ran" if outcome.record else "0 s"
    if outcome.cached:
        return f"unchanged, {duration(outcome.seconds)}"
    return ("at most " if outcome.status == "killed" else "") + duration(outcome.seconds)


def config_tables(config: Mapping[str, Any]) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Return the configuration as (section, rows of key and value as JSON would show them)."""
    tables = []
    for section, content in config.items():
        rows = content.items() if isinstance(content, Mapping) else [("", content)]
        tables.append((section, tuple((str(key), '""' if value == "" else plain(value)) for key, value in rows)))
    return tuple(tables)
