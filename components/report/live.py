"""The page of a run that has not ended: its steps, how far the training is, samples, curves and scores so far, the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import ValidationError

from components.common.artifacts import now
from components.common.errors import first_line
from components.common.store import Store, store_at
from components.report.artifact_reader import READ_ERRORS
from components.report.description import RunDescription
from components.report.formatting import duration, number
from components.report.outcomes import BROKEN, StepOutcome, seconds_between
from components.report.page import Timing, headline_facts, list_timings
from components.report.plots.chart import Chart
from components.report.plots.figures import Figure, figure
from components.report.rendering import render
from components.report.sections.samples import ShownSamples
from components.report.sections.training import pick_evenly, training_charts
from components.report.sections.verdict import RunVerdict, run_verdict
from components.report.summary import RunSummary, read_run
from components.train.config import TrainConfig, training_key
from components.train.progress import PROGRESS, ProgressFile

REFRESH_SECONDS = 5  # between two loads of the page, while the run goes on
RunState = Literal["running", "killed", "running or killed"]  # of a run without a summary


@dataclass(frozen=True)
class LiveTraining:
    """What a training has written so far; `progress` is None before its first host call has ended."""

    progress: ProgressFile | None = None
    charts: tuple[Chart, ...] = ()
    samples: tuple[Figure, ...] = ()  # the newest is the last
    real: Figure | None = None
    notes: tuple[str, ...] = ()
    over_time: tuple[Figure, ...] = ()  # they are in a section of their own, above the curves
    unfinished: str = ""


class LivePage:
    """The content of the page. `over`: nothing will change any more; `report` is then the link of the report."""

    def __init__(
        self,
        run: RunDescription,
        summary: RunSummary,
        outcomes: tuple[StepOutcome, ...],
        training: LiveTraining,
        notes: list[str],
        *,
        over: bool,
        report: str,
    ) -> None:
        self.run, self.training, self.notes, self.over, self.report = run, training, notes, over, report
        self.exit_code, self.seen_at, self.refresh_seconds = summary.exit_code, now(), 0 if over else REFRESH_SECONDS
        newest = training.samples[-1] if training.samples else None
        self.samples = ShownSamples(newest, training.real) if newest else None
        self.timings = list_timings(outcomes)
        self.progress: ProgressFile | None = None
        self.facts = headline_facts(summary)
        if over or (summary.error and any(outcome.status in ("failed", "interrupted") for outcome in outcomes)):
            self.summary, self.verdict = summary, run_verdict(summary)
            return
        self.summary = summary.model_copy(update={"status": "running"})
        self.timings = tuple(_unfinished(timing) for timing in self.timings)
        step = next((outcome for outcome in outcomes if outcome.status in BROKEN), None)  # without a result: it runs
        if step and step.record and step.step == "train" and training.progress:
            is_of_this_process = seconds_between(step.record.started_at, training.progress.written_at) > 0
            self.progress = training.progress if is_of_this_process else None
        self.verdict = RunVerdict("neutral", *self._headline(step, outcomes))
        self.facts += self._scores_so_far(summary)

    def html(self) -> str:
        """Return the page as one HTML document, which loads itself again until the run has ended."""
        return render("live.html.j2", self)

    def _headline(self, step: StepOutcome | None, outcomes: tuple[StepOutcome, ...]) -> tuple[str, str]:
        """Return what happens now, and a sentence on how far it is."""
        if self.progress:
            done, rounds, speed = self.progress.round, self.progress.rounds, self.progress.rounds_per_second
            seconds = self.progress.seconds_left
            time_left = f"{seconds:.0f} s" if seconds < 60 else duration(seconds)
            left = f"about {time_left} left" if done < rounds else "the model is being written"
            text = f"Round {number(done)} of {number(rounds)} at {number(speed, 3)} rounds/s; {left}."
            return f"Training: {100 * done // rounds}\N{NO-BREAK SPACE}%", text
        if step:
            return f"{step.step} is running", ""
        waiting = next((outcome.step for outcome in outcomes if outcome.status == "skipped"), None)
        return (f"{waiting} comes next", "") if waiting else ("The report is being written", "")

    def _scores_so_far(self, summary: RunSummary) -> tuple[tuple[str, str], ...]:
        """Return the last score of the training and the gate's verdict as (label, text)."""
        facts = []
        if self.training.progress and (scores := self.training.progress.scores):
            last = scores[-1]
            facts.append(("KID during training", f"{last.kid:.4f} ± {last.kid_std:.4f} (round {number(last.round)})"))
        if summary.gate:
            facts.append(("Gate", f"{summary.gate.get('decision')}: {summary.gate.get('reason')}"))
        return tuple(facts)


def _unfinished(timing: Timing) -> Timing:
    """Return a step without a result as one that runs, and one without a record as one that waits: the run has not ended."""
    if timing.status == "killed":
        return replace(timing, status="running", text=timing.text.removeprefix("at most "))
    return replace(timing, status="waiting", text="") if timing.status == "skipped" else timing


class Watched:
    """A run that is watched: its folder, what tells its state, and the link of its report. Nothing is written."""

    def __init__(self, run: RunDescription, folder: Store, state: Callable[[], RunState], report: str) -> None:
        self.run, self.folder, self._state, self._report = run, folder, state, report
        self._figures: dict[str, Figure] = {}  # the grid of a round never changes

    def page(self) -> LivePage:
        """Return the page as the run is now. Raises ArtifactError if its folder cannot be read."""
        state, notes = self._state(), list[str]()
        summary = None if state == "running" else self._summary(notes)
        has_report = "report.html" in self.folder.names()
        over = state == "killed" or (summary is not None and has_report)
        if summary and over:
            outcomes = tuple(StepOutcome(name, each.status, each.seconds, each.cached) for name, each in summary.steps.items())
        else:
            summary, outcomes, unread = read_run(self.run, "", "its process is gone")
            notes += unread
        training = self._training(summary.artifacts["ingest"].digest) if "ingest" in summary.artifacts else LiveTraining()
        report = self._report if over and has_report else ""
        return LivePage(self.run, summary, outcomes, training, notes, over=over, report=report)

    def _summary(self, notes: list[str]) -> RunSummary | None:
        try:
            return RunSummary.model_validate_json(self.folder.read("summary.json"))
        except FileNotFoundError:
            return None
        except ValidationError as error:  # of another version
            notes.append(f"summary.json cannot be read: {first_line(error)}.")
            return None

    def _training(self, dataset_digest: str) -> LiveTraining:
        """Return what the training of this dataset has written; a note where that cannot be read."""
        try:
            key = training_key(TrainConfig.model_validate(self.run.config["train"]), dataset_digest)
            store = store_at(self.run.work_dir, "checkpoints", key)
            names = store.names("samples")
            rounds = pick_evenly(sorted(name for name in names if name.startswith("round-")))
            samples = tuple(self._figure(store, name, f"Round {int(name[6:-4]):,}") for name in rounds)
            real = self._figure(store, "real.png", "Real images from the training split.") if "real.png" in names else None
            try:
                progress = ProgressFile.model_validate_json(store.read(PROGRESS))
            except FileNotFoundError:
                return LiveTraining(samples=samples, real=real)
            metrics, scores = ([line.model_dump() for line in lines] for lines in (progress.metrics, progress.scores))
            return LiveTraining(progress, training_charts(metrics, scores), samples, real)
        except READ_ERRORS as error:
            return LiveTraining(notes=(f"The training cannot be shown: {first_line(error)}.",))

    def _figure(self, store: Store, name: str, caption: str) -> Figure:
        location = f"{store.location}/{name}"
        if location not in self._figures:
            self._figures[location] = figure(store.read(f"samples/{name}"), f"Grid of images: {caption}", caption)
        return self._figures[location]
