"""The content of the page, gathered from the journal and the artifacts of a run."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from components.common.journal import STEPS
from components.evaluate.metrics import table
from components.report.artifact_reader import open_outcome, open_unfinished_training
from components.report.description import RunDescription
from components.report.formatting import duration, moment, number
from components.report.outcomes import BROKEN, StepOutcome
from components.report.sections.champion import ChampionSection
from components.report.sections.data import DataSection
from components.report.sections.lineage import artifact_rows
from components.report.sections.samples import SamplesSection
from components.report.sections.scores import ScoresSection
from components.report.sections.training import TrainingSection
from components.report.sections.validation import ValidationSection, open_refused
from components.report.sections.verdict import run_verdict
from components.report.summary import RunSummary


@dataclass(frozen=True)
class Timing:
    """The time of one step, as text and as a bar in percent of the longest."""

    step: str
    status: str
    text: str
    length: float


class Page:
    """The content of the page; each section may be empty. Missing and damaged artifacts become notes, never exceptions."""

    def __init__(
        self, description: RunDescription, summary: RunSummary, outcomes: tuple[StepOutcome, ...], notes: list[str]
    ) -> None:
        with contextlib.ExitStack() as copies:
            readers = {outcome.step: open_outcome(outcome) for outcome in outcomes}
            broken = {outcome.step for outcome in outcomes if outcome.status in BROKEN}
            dataset, validation, model, evaluation, gate, push = (readers[step] for step in STEPS)
            if "validate" in broken:
                validation = copies.enter_context(open_refused(description.config.get("validate", {}), dataset))
            if "train" in broken:
                training = open_unfinished_training(description.work_dir, description.config.get("train", {}))
                model = copies.enter_context(training)
            self.run, self.summary = description, summary
            self.verdict = run_verdict(summary)
            self.facts = headline_facts(summary)
            self.timings = list_timings(outcomes)
            self.between_steps = duration(max(0.0, summary.seconds - sum(outcome.seconds for outcome in outcomes)))
            self.training = TrainingSection(model)
            last_round = self.training.over_time[-1] if self.training.over_time else None
            self.samples = SamplesSection(dataset, model, evaluation, last_round, seed=description.run_id)
            self.champion = ChampionSection(gate, push, evaluation.summary)
            self.scores = ScoresSection(evaluation, self.champion.scores)
            self.validation = ValidationSection(validation)
            self.data = DataSection(dataset, validation)
            self.artifacts = artifact_rows(outcomes, readers)
            self.notes = [note for note in (summary.note, *notes, *gate.notes, *push.notes) if note]
            sections = {
                "samples": self.samples.final,
                "scores": self.scores.scores or self.scores.notes,
                "training curves": self.training.charts or self.training.notes,
                "data": not self.data.empty,
            }
            self.absent = [name for name, content in sections.items() if not content]


def headline_facts(summary: RunSummary) -> tuple[tuple[str, str], ...]:
    """Return the few numbers below the headline as (label, text)."""
    train, evaluate, checked = summary.train or {}, summary.evaluate or {}, summary.tpu_check or {}
    cached = sum(step.cached for step in summary.steps.values())
    facts = [("Started", moment(summary.started_at)), ("Duration", duration(summary.seconds))]
    if cached:
        facts.append(("From the cache", f"{cached} of {len(summary.steps)} steps"))
    if checked.get("compiled"):
        memory = f"{checked['peak_hbm_bytes'] / 1e9:.2f} of {checked['hbm_bytes'] / 1e9:.1f} GB of HBM"
        speed = f"at most {number(round(checked['images_per_second_at_most']))} images/s"
        facts.append((f"Compiled for {checked['topology']}", f"{memory}, {speed}"))
    for executed in checked.get("executed", ()):
        ran = f"{executed['rounds']} rounds on {executed['replicas']} virtual replicas train as the CPU does"
        size = f"batch {executed['global_batch_size']}, metrics within {executed['differences'][0][0]:.0e}"
        facts.append((f"Executed in {executed['precision']}", f"{ran} ({size})"))
    if train.get("rounds") is not None:
        facts.append(("Trained", f"{number(train['rounds'])} rounds, {number(train.get('images_seen'))} images"))
    if train.get("critic_images_per_second") is not None:
        facts.append(("Speed", f"{number(round(train['critic_images_per_second']))} critic images/s"))
    if train.get("exported_round") not in (None, train.get("rounds")):
        facts.append(("Model", f"of round {number(train['exported_round'])}, which had the best KID"))
    if train.get("started_from"):
        facts.append(("Started from", str(train["started_from"])))
    elif train.get("why_from_scratch"):
        facts.append(("Started from", f"scratch: {train['why_from_scratch']}"))
    if train.get("resumed_from_round"):
        facts.append(("Resumed", f"from round {number(train['resumed_from_round'])}"))
    facts += [(metric.title, metric.text(evaluate)) for metric in table.metrics_on("console")]
    return tuple(fact for fact in facts if fact[1])


def list_timings(outcomes: tuple[StepOutcome, ...]) -> tuple[Timing, ...]:
    """Return the time of each step in this run; for a cached step the text has its time when it ran."""
    longest = max(outcome.seconds for outcome in outcomes) or 1.0
    return tuple(
        Timing(outcome.step, outcome.status, _timing_text(outcome), 100 * outcome.seconds / longest) for outcome in outcomes
    )


def _timing_text(outcome: StepOutcome) -> str:
    if outcome.status == "skipped":
        return "did not run"
    if outcome.status == "cached":
        return f"{duration(outcome.record.seconds)} when it ran" if outcome.record else "0 s"
    if outcome.cached:
        return f"unchanged, {duration(outcome.seconds)}"
    return ("at most " if outcome.status == "killed" else "") + duration(outcome.seconds)
