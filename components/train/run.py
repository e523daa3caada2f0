"""The train step: find the checkpoint, train to the last round, export."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.common import images as pictures
from components.common.artifacts import new_artifact, read_manifest, remove_leftovers
from components.common.errors import ConfigError, InterruptedStepError, TrainingDivergedError
from components.common.locks import locked
from components.common.progress import say, tick
from components.common.section import Summary
from components.dataset.records import read_split
from components.train import loop, noise, step
from components.train.config import TrainConfig
from components.train.data.sources import Source, open_source
from components.train.devices import precision
from components.train.devices.host_code import without_host_code
from components.train.devices.strategy import make_strategy
from components.train.monitor import NEEDED, SAMPLES, Judge, Scored, best_of, got_worse, is_due, patience_is_over
from components.train.networks import ImageShape
from components.train.saving import checkpoint, warm_start
from components.train.saving.export import Generator
from components.train.saving.signals import StopRequest, long_call_text, stop_requested_by_signal
from components.train.saving.tensorboard import Events, shown_elsewhere, written_by_tensorflow

GRID, GRID_COLUMNS = 64, 8  # images of a sample grid
LOCK_SECONDS = 60

Averages = list[npt.NDArray[Any]]


class TrainSummary(Summary):
    """What training did; metrics are the means over the rounds of the last host call."""

    rounds: int
    images_seen: int
    replicas: int
    critic_images_per_second: float
    resumed_from_round: int | None
    exported_round: int
    started_from: str
    why_from_scratch: str
    wasserstein_gap: float
    penalty: float


def run(
    config: TrainConfig, *, dataset: Path, validation: Path, work_dir: Path, out: Path, start: Path | None = None
) -> TrainSummary:
    """Train on `dataset` and write the model artifact `out`; checkpoints live in `work_dir`, keyed by data and config.

    `start` is the model or version to start from where nothing of this training is done yet and it fits, else it is said why
    training starts from scratch.

    Raises DeviceError, TrainingDivergedError, ArtifactError, and InterruptedStepError after SIGTERM or Ctrl-C.
    """
    strategy = make_strategy(config)
    # Grappler's remapper stumbles over graphs with second derivatives, changes nothing, and logs an error for it.
    tf.config.optimizer.set_experimental_options({"remapping": False})
    manifest = read_manifest(dataset, "dataset")
    read_manifest(validation, "validation")
    training = Path(work_dir) / "checkpoints" / checkpoint.training_key(config, manifest.digest)
    training.mkdir(parents=True, exist_ok=True)
    with _locked(training), stop_requested_by_signal() as stop:
        checkpoint.remove_unfinished(training)
        remove_leftovers(out.parent, out.name)
        source = open_source(
            dataset, seed=config.seed, n_critic=config.n_critic, batch_size=config.global_batch_size, mode=config.data
        )
        with contextlib.closing(source):
            trainer = Trainer(config, strategy, source, read_split(dataset, "eval").images, training, start)
            trainer.train(stop)
        with new_artifact(out, "model", config=config, inputs={"dataset": dataset, "validation": validation}) as writer:
            exported_round = trainer.export(writer.path)
            writer.counts = {"rounds": trainer.round, "images_seen": trainer.log[-1].images_seen}
            writer.details = {
                "image_size": trainer.shape.size,
                "channels": trainer.shape.channels,
                "latents": config.latents,
                "classes": trainer.shape.classes,
                "exported_round": exported_round,
                "started_from": trainer.origin.started_from,
            }
    return trainer.summary()


class Trainer:
    """A training under way: the state on the devices, its folder, and where it is."""

    def __init__(
        self,
        config: TrainConfig,
        strategy: tf.distribute.Strategy,
        source: Source,
        held_out: npt.NDArray[np.uint8],
        folder: Path,
        start: Path | None = None,
    ) -> None:
        self.asked, self.folder, self.source = config, folder, source
        config = precision.resolved(config, folder)
        self.config = config.model_copy(update={"rounds_per_call": loop.rounds_a_call(config, source)})
        self.shape = ImageShape(source.shape[0], source.shape[2], _classes(config, source))
        self.replicas = int(strategy.num_replicas_in_sync)
        self.state = step.make_state(self.shape, self.config, strategy)
        self.call = loop.make_call(self.state, self.config, strategy, source)
        if isinstance(strategy, tf.distribute.TPUStrategy):
            self.call = without_host_code(self.call)
        self.generator = Generator(self.shape, config, source.label_counts if self.shape.classes else ())
        self.judge = self._make_judge(held_out)
        self.round = 0
        self.log: list[loop.Logged] = []
        self.scores: list[Scored] = []
        self.best: Averages = []
        self.resumed_from_round: int | None = None
        self.broken_weights = loop.make_weights_check(self.state, strategy)
        self.last_good: Path | None = None  # the checkpoint that this process read or wrote last
        self.origin = warm_start.Origin()
        self._resume(start)

    @property
    def finished(self) -> bool:
        """Whether the last round is done, or the scores have not got better for too long."""
        return self.round >= self.config.rounds or patience_is_over(self.scores, self.config.patience)

    def train(self, stop: StopRequest) -> None:
        """Go on to the last round. A stop is obeyed after the current host call, with a checkpoint."""
        config = self.config
        self.events = Events(self.folder / "tensorboard", *shown_elsewhere(os.environ))
        if self.round == 0:
            shutil.rmtree(self.folder / "samples", ignore_errors=True)
            pictures.write_png(self.folder / "samples" / "real.png", pictures.grid(self.source.first(GRID), 8))
            self._sample()
        calls = 0
        while not self.finished:
            logged = self._call()
            self._score(logged)
            if self.round % config.sample_every_rounds == 0 or self.finished:
                self._sample()
            if self.round % config.checkpoint_every_rounds == 0 or self.finished or stop:
                self._save()
            if stop and not self.finished:
                raise InterruptedStepError(
                    f"Training stopped by {stop.by} after round {self.round} of {config.rounds}.", "Run again to go on."
                )
            self._tell(logged)
            if calls == 1 and config.devices.startswith("tpu") and (text := long_call_text(logged.seconds)):
                say(text)  # of the second call: the first one compiles
            calls += 1
        if self.round < config.rounds:
            best = best_of(self.scores)
            say(f"Stopped at round {self.round}: {config.patience} scores since the best, KID {best.kid:.4f} at {best.round}")
        self.events.close()

    def _make_judge(self, held_out: npt.NDArray[np.uint8]) -> Judge | None:
        if not self.config.score_every_images:
            return None
        if len(held_out) < NEEDED:
            say(f"No scores while training: {len(held_out)} held-out images, {NEEDED} are needed")
            return None
        return Judge(held_out)

    def _score(self, logged: loop.Logged) -> None:
        """Score the moving average when it is due, and keep it if it is the best so far."""
        before = loop.images_seen(self.config, self.round - loop.rounds_in_call(self.config, self.round))
        due = is_due(before, logged.images_seen, self.config.score_every_images) or self.round == self.config.rounds
        if self.judge is None or not due:
            return
        averages = loop.averages(self.state)
        self.generator.take_weights(averages)
        samples = self.generator.draw(self.config.seed, SAMPLES)
        self.scores.append(self.judge.score(samples, self.round, logged.images_seen))
        if best_of(self.scores) is self.scores[-1]:
            self.best = averages
        self.events.scalars(self.round, {"kid_while_training": self.scores[-1].kid})

    def _resume(self, start: Path | None) -> None:
        last = checkpoint.load_latest(self.folder, self.asked, self.shape)
        if last is None:
            self._start(start)
            return
        self.origin = warm_start.read_origin(self.folder)
        self.last_good = checkpoint.path_of(self.folder, last.round)
        checkpoint.check_variables(self.last_good, last.arrays, loop.state_arrays(self.state))
        loop.load_arrays(self.state, last.arrays)
        self.round, self.log, self.resumed_from_round = last.round, last.log, last.round
        self.scores, self.best = list(last.scores), list(last.best)
        say(f"Resuming from round {self.round} of {self.config.rounds}")

    def _start(self, start: Path | None) -> None:
        found = "" if start is None else warm_start.start_of(start, self.asked, self.shape, loop.state_arrays(self.state))
        if isinstance(found, warm_start.Start):
            loop.load_arrays(self.state, found.arrays)
            self.origin = warm_start.Origin(started_from=found.name)
        elif self.config.start_from:
            self.origin = warm_start.Origin(why_from_scratch=found or "there is no champion yet")
            say(f"Not started from the champion: {self.origin.why_from_scratch}")
        warm_start.write_origin(self.folder, self.origin)
        say(f"Training {self.config.rounds} rounds from {self.origin.started_from or 'scratch'} on {self.config.devices}")

    def _call(self) -> loop.Logged:
        try:
            logged = loop.run_call(self.call, self.config, self.source, self.round)
            if broken := self.broken_weights():
                what = f"{broken[0]} is not finite (first of {len(broken)} such variables)"
                raise loop.diverged(what, (self.round, logged.round), [logged.model_dump()])
        except TrainingDivergedError as error:
            lines = [*error.evidence, {"variables_not_finite": self.broken_weights()}]
            file = checkpoint.write_evidence(self.folder, lines)
            problem = f"{error.problem} {self._last_good()} The metrics of these rounds are in {file}."
            raise TrainingDivergedError(problem, error.cure, lines) from None
        self.round = logged.round
        if self.round % self.config.log_every_rounds == 0 or self.round == self.config.rounds:
            self.log.append(logged)
            self._write_scalars(logged)
        return logged

    def _tell(self, logged: loop.Logged) -> None:
        try:
            tick(self.round, self.config.rounds, loop.tick_text(logged, self.config))
        except InterruptedStepError:  # nobody reads any more: the run was killed, this process is an orphan
            self._save()
            raise

    def _last_good(self) -> str:
        return f"The last good checkpoint is {self.last_good}." if self.last_good else "There is no checkpoint yet."

    def _write_scalars(self, logged: loop.Logged) -> None:
        self.events.scalars(logged.round, {name: getattr(logged, name) for name in step.METRICS})

    def _sample(self) -> None:
        self.generator.take_weights(loop.averages(self.state))
        latents = noise.fixed_latents(self.config.seed, GRID, self.config.latents)
        labels = np.arange(GRID, dtype=np.int32) % GRID_COLUMNS % max(1, self.shape.classes)  # a column, a label
        picture = pictures.grid(self.generator.images(latents, tf.constant(labels)), GRID_COLUMNS)
        pictures.write_png(self.folder / "samples" / f"round-{self.round:08d}.png", picture)
        self.events.picture(self.round, "samples", picture)

    def _save(self) -> None:
        arrays = loop.state_arrays(self.state)
        now = checkpoint.Checkpoint(self.round, arrays, self.log, self.scores, self.best)
        self.last_good = checkpoint.save(self.folder, self.asked, self.shape, now)

    def export(self, folder: Path) -> int:
        """Write SavedModel, metrics, scores, sample grids and TensorBoard events into `folder`; return the model's round.

        The model is the last moving average, or the best-scored one if the last is worse by more than noise.
        """
        averages, exported = loop.averages(self.state), self.round
        if self.scores and got_worse(self.scores):
            best = best_of(self.scores)
            averages, exported = self.best, best.round
            say(f"KID got worse ({self.scores[-1].kid:.4f}): the model is that of round {best.round} (KID {best.kid:.4f})")
        self.exported_round = exported
        self.generator.take_weights(averages)
        with written_by_tensorflow(folder):
            self.generator.save(folder / "saved_model")
        if exported == self.round:  # else the networks have got worse since: nothing to go on from
            warm_start.save_state(folder, loop.state_arrays(self.state))
        checkpoint.write_lines(folder / "metrics.jsonl", self.log)
        checkpoint.write_lines(folder / "scores.jsonl", self.scores)
        shutil.copytree(self.folder / "samples", folder / "samples")
        shutil.copytree(self.folder / "tensorboard", folder / "tensorboard")
        return exported

    def summary(self) -> TrainSummary:
        """Return what the report tells of this training."""
        last = self.log[-1]
        rounds_per_second = statistics.median(logged.speed(self.config) for logged in self.log)
        return TrainSummary(
            rounds=self.round,
            images_seen=last.images_seen,
            replicas=self.replicas,
            critic_images_per_second=round(rounds_per_second * loop.images_seen(self.config, 1), 1),
            resumed_from_round=self.resumed_from_round,
            exported_round=self.exported_round,
            started_from=self.origin.started_from,
            why_from_scratch=self.origin.why_from_scratch,
            wasserstein_gap=last.wasserstein_gap,
            penalty=last.penalty,
        )


def _classes(config: TrainConfig, source: Source) -> int:
    """Return how many labels the networks see. Raises ConfigError when they should see some and there are none."""
    if not config.conditional:
        return 0
    if len(source.label_counts) < 2:
        raise ConfigError(
            "train.conditional = true, but the dataset has not a label of at least 2 kinds on every training image.",
            "Use --set train.conditional=false, or ingest with labels (ingest.labels_from_folders = true).",
        )
    return len(source.label_counts)


def _locked(training: Path) -> AbstractContextManager[None]:
    """Hold the lock of a training: two processes must not write the same checkpoints. Raises ArtifactError."""
    return locked(
        training / ".lock",
        holder="Another process that trains this configuration",
        wait_seconds=LOCK_SECONDS,
        waiting=f"Another process trains this configuration; waiting up to {LOCK_SECONDS} s for it to end",
    )
