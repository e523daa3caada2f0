"""The train step: find the checkpoint, train to the last round, export."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

import filelock
import tensorflow as tf

from components import images as pictures
from components.artifacts import new_artifact, read_manifest, remove_leftovers
from components.errors import ArtifactError, InterruptedStepError, TrainingDivergedError
from components.progress import say, tick
from components.records import ImageSet, read_split
from components.section import Summary
from components.train import checkpoint, loop, noise, step
from components.train.config import TrainConfig
from components.train.export import Generator
from components.train.networks import ImageShape
from components.train.stop import StopRequest, stop_requested_by_signal
from components.train.strategy import make_strategy
from components.train.writing import Events, written_by_tensorflow

GRID = 64  # images of a sample grid: 8 × 8
LOCK_SECONDS = 60


class TrainSummary(Summary):
    """What training did; metrics are the means over the rounds of the last host call."""

    rounds: int
    images_seen: int
    replicas: int
    critic_images_per_second: float
    resumed_from_round: int | None
    wasserstein_gap: float
    penalty: float


def run(config: TrainConfig, *, dataset: Path, validation: Path, work_dir: Path, out: Path) -> TrainSummary:
    """Train on `dataset` and write the model artifact `out`; checkpoints live in `work_dir`, keyed by data and config.

    Raises DeviceError, TrainingDivergedError, ArtifactError, and InterruptedStepError after SIGTERM or Ctrl-C.
    """
    strategy = make_strategy(config)
    # Grappler's remapper cannot fuse bias and LeakyReLU whose second derivative is needed, and logs an error for trying.
    tf.config.optimizer.set_experimental_options({"remapping": False})
    manifest = read_manifest(dataset, "dataset")
    read_manifest(validation, "validation")
    training = Path(work_dir) / "checkpoints" / checkpoint.training_key(config, manifest.digest)
    training.mkdir(parents=True, exist_ok=True)
    with _only_one(training), stop_requested_by_signal() as stop:
        checkpoint.remove_unfinished(training)
        remove_leftovers(out.parent, out.name)
        trainer = Trainer(config, strategy, read_split(dataset, "train"), training)
        trainer.train(stop)
        with new_artifact(out, "model", config=config, inputs={"dataset": dataset, "validation": validation}) as writer:
            trainer.export(writer.path)
            writer.counts = {"rounds": config.rounds, "images_seen": trainer.log[-1].images_seen}
            writer.details = {"image_size": trainer.shape.size, "channels": trainer.shape.channels, "latents": config.latents}
    return trainer.summary()


class Trainer:
    """A training under way: the state on the devices, its folder, and where it is."""

    def __init__(self, config: TrainConfig, strategy: tf.distribute.Strategy, data: ImageSet, folder: Path) -> None:
        self.config, self.folder, self.images = config, folder, data.images
        self.shape = ImageShape(data.images.shape[1], data.images.shape[3])
        self.replicas = int(strategy.num_replicas_in_sync)
        self.state = step.make_state(self.shape, config, strategy)
        self.call = loop.make_call(self.state, config, strategy, data.images)
        self.generator = Generator(self.shape, config)
        self.latents = noise.fixed_latents(config.seed, GRID, config.latents)
        self.round = 0
        self.log: list[loop.Logged] = []
        self.resumed_from_round: int | None = None
        self.broken_weights = loop.make_weights_check(self.state, strategy)
        self.last_good: Path | None = None  # the checkpoint that this process read or wrote last
        self._resume()

    def train(self, stop: StopRequest) -> None:
        """Go on to the last round. A stop is obeyed after the current host call, with a checkpoint."""
        config = self.config
        self.events = Events(self.folder / "tensorboard")
        if self.round == 0:
            shutil.rmtree(self.folder / "samples", ignore_errors=True)
            pictures.write_png(self.folder / "samples" / "real.png", pictures.grid(self.images[:GRID], 8))
            self._sample()
        while self.round < config.rounds:
            logged = self._call()
            if self.round % config.sample_every_rounds == 0 or self.round == config.rounds:
                self._sample()
            if self.round % config.checkpoint_every_rounds == 0 or self.round == config.rounds or stop:
                self._save()
            if stop and self.round < config.rounds:
                raise InterruptedStepError(
                    f"Training stopped by {stop.by} after round {self.round} of {config.rounds}.", "Run again to go on."
                )
            self._tell(logged)
        self.events.close()

    def _resume(self) -> None:
        last = checkpoint.load_latest(self.folder, self.config, self.shape)
        if last is None:
            say(f"Training {self.config.rounds} rounds from scratch on {self.config.devices}")
            return
        self.last_good = checkpoint.path_of(self.folder, last.round)
        checkpoint.check_variables(self.last_good, last.arrays, loop.state_arrays(self.state))
        loop.load_arrays(self.state, last.arrays)
        self.round, self.log, self.resumed_from_round = last.round, last.log, last.round
        say(f"Resuming from round {self.round} of {self.config.rounds}")

    def _call(self) -> loop.Logged:
        try:
            logged = loop.run_call(self.call, self.config, len(self.images), self.round)
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
        self.generator.take_weights(self.state)
        picture = pictures.grid(self.generator.images(self.latents), 8)
        pictures.write_png(self.folder / "samples" / f"round-{self.round:08d}.png", picture)
        self.events.picture(self.round, "samples", picture)

    def _save(self) -> None:
        arrays = loop.state_arrays(self.state)
        now = checkpoint.Checkpoint(self.round, arrays, self.log)
        self.last_good = checkpoint.save(self.folder, self.config, self.shape, now)

    def export(self, folder: Path) -> None:
        """Write SavedModel, metrics.jsonl, sample grids and TensorBoard events into `folder`."""
        self.generator.take_weights(self.state)
        with written_by_tensorflow(folder):
            self.generator.save(folder / "saved_model")
        checkpoint.write_log(folder / "metrics.jsonl", self.log)
        shutil.copytree(self.folder / "samples", folder / "samples")
        shutil.copytree(self.folder / "tensorboard", folder / "tensorboard")

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
            wasserstein_gap=last.wasserstein_gap,
            penalty=last.penalty,
        )


def _only_one(training: Path) -> filelock.BaseFileLock:
    """Return the lock of a training: two processes must not write the same checkpoints. Raises ArtifactError."""
    lock = filelock.FileLock(training / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"Another process trains this very configuration; waiting up to {LOCK_SECONDS} s for it to end")
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except filelock.Timeout:
            raise ArtifactError(
                f"Another process still trains this very configuration (it holds {training / '.lock'}).",
                "Wait for it, or end it and run again.",
            ) from None
    return lock
