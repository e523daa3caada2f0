"""The training loop, top to bottom: a host call, its metrics, a score, samples, a checkpoint, a stop."""

from __future__ import annotations

import datetime
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.common.errors import InterruptedStepError, TrainingDivergedError
from components.common.images import grid, viewable_scale
from components.common.progress import say, tick
from components.train import noise, step
from components.train.config import TrainConfig
from components.train.data.source import Source
from components.train.devices.host_code import Call
from components.train.monitor import SAMPLES, Monitor, is_due
from components.train.networks import ImageShape
from components.train.progress import MetricsLine, Progress, images_seen
from components.train.saving.export import Generator
from components.train.saving.folder import KID, SAVING_SHARE, TrainingFolder
from components.train.saving.signals import StopRequest, long_call_text
from components.train.saving.variables import averages, state_arrays

GRID, GRID_COLUMNS = 64, 8  # images and columns of a sample grid
CALLS_OF_SPEED = 8  # logged host calls whose median speed progress.json states


@dataclass
class Training:
    """What the loop needs; run.py creates it.

    `call` runs the rounds of a host call on the devices, `broken_weights` lists the variables that are not finite, `generator`
    draws samples with the moving average, `monitor` scores them (None: no scores), `folder` writes the files. `saved_at` is the
    time.monotonic() of the last checkpoint, or of the start; it took `save_seconds`.
    """

    config: TrainConfig
    shape: ImageShape
    state: step.State
    source: Source
    call: Call
    broken_weights: Callable[[], list[str]]
    generator: Generator
    monitor: Monitor | None
    folder: TrainingFolder
    progress: Progress
    saved_at: float = field(default_factory=time.monotonic)
    save_seconds: float = 0.0
    calls: int = 0  # host calls of this process


def train(training: Training, stop: StopRequest) -> None:
    """Train from `training.progress` to the last round, or until `patience` scores have brought no improvement.

    Raises InterruptedStepError after a stop request (and a checkpoint), TrainingDivergedError, ArtifactError.
    """
    config, folder, progress = training.config, training.folder, training.progress
    if progress.round == 0:
        folder.begin_samples(grid_of(training.source.first(GRID)))
        draw_samples(training)
    while not progress.finished(config):
        # 1. A host call: many rounds on the devices. Reading the metrics back waits for their end, so that times are real.
        line = call_and_check(training)
        # 2. Log. The lines of metrics.jsonl stay in memory; each checkpoint writes them all.
        if progress.round % config.log_every_rounds == 0 or progress.round == config.rounds:
            progress.log.append(line)
            folder.events.scalars(progress.round, {name: getattr(line, name) for name in step.METRICS})
        # 3. Score the moving average on held-out images, and keep it if it is the best so far.
        if training.monitor and is_due(config, progress.round):
            score_average(training, training.monitor)
        # 4. Draw the fixed latents.
        if progress.round % config.sample_every_rounds == 0 or progress.finished(config):
            draw_samples(training)
        # 5. Save. A stop request takes effect here, after the checkpoint.
        due = progress.round % config.checkpoint_every_rounds == 0 or save_is_due(training, time.monotonic())
        if due or progress.finished(config) or stop:
            save(training)
        if stop and not progress.finished(config):
            raise InterruptedStepError(
                f"Training stopped by {stop.by} after round {progress.round} of {config.rounds}.", "Run again to resume."
            )
        # 6. Report.
        report_progress(training, line)
        if training.calls == 2 and (text := long_call_text(line.seconds)):
            say(text)  # the second call is timed because the first one compiles
    if progress.round < config.rounds:
        best = progress.best_score()
        say(
            f"Stopped at round {progress.round}: no improvement in {config.patience} scores; the best KID is {best.kid:.4f} at "
            f"round {best.round}"
        )
    folder.events.close()


def call_and_check(training: Training) -> MetricsLine:
    """Run one host call and return its metrics.

    Raises TrainingDivergedError if a metric or weight is not finite; it names the rounds, the last good checkpoint and the file
    with the metrics.
    """
    progress = training.progress
    try:
        line = run_call(training.call, training.config, training.source, progress.round)
        if broken := training.broken_weights():
            what = f"{broken[0]} is not finite (first of {len(broken)} such variables)"
            raise diverged(what, (progress.round, line.round), [line.model_dump()])
    except TrainingDivergedError as error:
        evidence = [*error.evidence, {"variables_not_finite": training.broken_weights()}]
        file, last_good = training.folder.write_evidence(evidence), training.folder.last_good
        good = f"The last good checkpoint is {last_good}." if last_good else "There is no checkpoint yet."
        problem = f"{error.problem} {good} The metrics of these rounds are in {file}."
        raise TrainingDivergedError(problem, error.cure, evidence) from None
    progress.round = line.round
    training.calls += 1
    return line


def run_call(call: Call, config: TrainConfig, source: Source, first_round: int) -> MetricsLine:
    """Run one host call from `first_round` on and return its metrics. Raises TrainingDivergedError if one is not finite."""
    started = time.monotonic()
    rounds = min(config.rounds_a_call, config.rounds - first_round)
    taken = source.take(first_round, rounds)
    values = call(taken, tf.constant(first_round, tf.int32)).numpy().astype(np.float64)
    check_finite(values, first_round)
    last_round = first_round + rounds
    means = dict(zip(step.METRICS, values.mean(axis=0).tolist(), strict=True))
    seconds = round(time.monotonic() - started, 4)
    return MetricsLine(round=last_round, images_seen=images_seen(config, last_round), seconds=seconds, **means)


def check_finite(values: npt.NDArray[np.float64], first_round: int) -> None:
    """Raise TrainingDivergedError, with round, name and value, if one of the metrics [R, 6] is not finite."""
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        offset, column = (int(index) for index in broken[0])
        raise diverged(
            f"{step.METRICS[column]} is {values[offset, column]} in round {first_round + offset + 1}",
            (first_round, first_round + len(values)),
            [
                {"round": first_round + done} | dict(zip(step.METRICS, row.tolist(), strict=True))
                for done, row in enumerate(values, start=1)
            ],
        )


def diverged(what: str, between: tuple[int, int], evidence: Sequence[Mapping[str, Any]]) -> TrainingDivergedError:
    """Return the error of a training that was finite after the first of two rounds, and not after the second."""
    return TrainingDivergedError(
        f"Training diverged between round {between[0]} and round {between[1]}: {what}.",
        "Lower train.critic_learning_rate and train.generator_learning_rate, or raise train.penalty_weight.",
        evidence,
    )


def score_average(training: Training, monitor: Monitor) -> None:
    """Score the moving average on held-out images, and keep it if it is the best so far."""
    config, progress, weights = training.config, training.progress, averages(training.state)
    training.generator.set_weights(weights)
    samples = training.generator.draw(config.seed, SAMPLES)
    score = monitor.score(samples, progress.round, images_seen(config, progress.round))
    progress.scores.append(score)
    if progress.best_score() is score:
        progress.best = weights
    training.folder.events.scalars(progress.round, {KID: score.kid})


def draw_samples(training: Training) -> None:
    """Write the grid of the fixed latents; with a conditional model, each column shows one label."""
    generator, config = training.generator, training.config
    generator.set_weights(averages(training.state))
    latents = noise.fixed_latents(config.seed, GRID, config.latents)
    labels = np.arange(GRID, dtype=np.int32) % GRID_COLUMNS % max(1, generator.classes)
    training.folder.write_samples(training.progress.round, grid_of(generator.images(latents, tf.constant(labels))))


def grid_of(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Lay images [N, H, W, C] out as all grids of the report are: uint8 [H', W', C]."""
    return grid(images, GRID_COLUMNS, viewable_scale(images.shape[1]))


def save(training: Training) -> None:
    """Write a checkpoint."""
    started = time.monotonic()
    training.folder.save(state_arrays(training.state), training.progress)
    training.saved_at = time.monotonic()
    training.save_seconds = training.saved_at - started


def save_is_due(training: Training, now: float) -> bool:
    """Return whether checkpoint_every_seconds have passed at `now`, and saving again takes at most SAVING_SHARE of the time."""
    every = training.config.checkpoint_every_seconds
    return every > 0 and now - training.saved_at >= max(every, training.save_seconds / SAVING_SHARE)


def report_progress(training: Training, line: MetricsLine) -> None:
    """Write and print the progress. If the run that started this process has died, save and raise InterruptedStepError."""
    config, progress = training.config, training.progress
    speed = statistics.median(each.rounds_per_second(config) for each in [*progress.log[-CALLS_OF_SPEED:], line])
    training.folder.write_progress(progress, config.rounds, speed, last=progress.finished(config))
    try:
        tick(progress.round, config.rounds, progress_text(line, config, first=training.calls == 1))
    except InterruptedStepError:
        save(training)
        raise


def progress_text(line: MetricsLine, config: TrainConfig, *, first: bool) -> str:
    """Return the progress line after a host call; the `first` one compiles, so it does not say how much time is left."""
    speed = line.rounds_per_second(config)
    left = str(datetime.timedelta(seconds=round((config.rounds - line.round) / speed)))
    time_left = "" if first else f" · {left} left"
    return (
        f"rounds · {line.images_seen:,} images · {speed:.1f} rounds/s · gap {line.wasserstein_gap:.3f}"
        f" · penalty {line.penalty:.4f}{time_left} · {resident_bytes() / 1e9:.1f} GB"
    )


def resident_bytes() -> int:
    """Return the resident memory of this process; without /proc, its maximum so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
