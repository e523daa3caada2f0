"""The train step: load the newest checkpoint, train to the last round, export the model."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.common.artifacts import ArtifactWriter, new_artifact, read_manifest
from components.common.errors import ConfigError
from components.common.lease import Lease, leased
from components.common.progress import say
from components.common.section import Summary
from components.common.store import Folder, Location, Store, store_at
from components.dataset.records import read_first
from components.train import loop, step
from components.train.config import TrainConfig, training_key
from components.train.data.source import Source, open_source, rounds_that_fit
from components.train.devices import precision
from components.train.devices.host_call import make_call, make_weights_check, rounds_within
from components.train.devices.strategy import make_strategy
from components.train.loop import Training
from components.train.monitor import SAMPLES, make_monitor
from components.train.networks import ImageShape
from components.train.progress import Progress, images_seen
from components.train.saving import checkpoint, warm_start
from components.train.saving.export import Generator
from components.train.saving.folder import TrainingFolder
from components.train.saving.signals import stop_requested_by_signal
from components.train.saving.tensorboard import written_by_tensorflow
from components.train.saving.variables import averages, load_arrays, state_arrays

LEASE_SECONDS = 60


class TrainSummary(Summary):
    """The result of training; the metrics are means over the rounds of the last host call."""

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
    config: TrainConfig, *, dataset: Path, validation: Path, work_dir: Location, out: Path, start: Path | None = None
) -> TrainSummary:
    """Train on `dataset` and write the model artifact `out`. Checkpoints are in `work_dir`, keyed by data and config.

    `start` is the model or version to start from. It is used if this training has no checkpoint yet and the model is
    compatible; otherwise the log states why training starts from scratch.

    Raises DeviceError, TrainingDivergedError, ArtifactError, and InterruptedStepError after SIGTERM or Ctrl-C.
    """
    strategy = make_strategy(config)
    # Grappler's remapper fails on graphs with second derivatives: it changes nothing and logs an error.
    tf.config.optimizer.set_experimental_options({"remapping": False})
    manifest = read_manifest(dataset, "dataset", verify=False)  # its shards are checked while they are read
    read_manifest(validation, "validation")
    store = store_at(work_dir, "checkpoints", training_key(config, manifest.digest))
    with _leased(store) as lease, _local_folder(store) as local, stop_requested_by_signal() as stop:
        checkpoint.remove_unfinished(store)
        source = open_source(
            dataset, seed=config.seed, n_critic=config.n_critic, batch_size=config.global_batch_size, mode=config.data
        )
        with contextlib.closing(source):
            held_out = read_first(dataset, "eval", SAMPLES)
            training = make_training(config, strategy, source, held_out, store, local, lease)
            resumed_from_round, origin = resume_or_start(training, config, start)
            loop.train(training, stop)
        with new_artifact(out, "model", config=config, inputs={"dataset": dataset, "validation": validation}) as writer:
            exported_round = export(training, writer)
            shape, progress = training.shape, training.progress
            writer.counts = {"rounds": progress.round, "images_seen": progress.log[-1].images_seen}
            writer.details = {
                "image_size": shape.size,
                "channels": shape.channels,
                "latents": config.latents,
                "classes": shape.classes,
                "exported_round": exported_round,
                "started_from": origin.started_from,
            }
    last = progress.log[-1]
    rounds_per_second = statistics.median(line.rounds_per_second(training.config) for line in progress.log)
    return TrainSummary(
        rounds=progress.round,
        images_seen=last.images_seen,
        replicas=int(strategy.num_replicas_in_sync),
        critic_images_per_second=round(rounds_per_second * images_seen(config, 1), 1),
        resumed_from_round=resumed_from_round,
        exported_round=exported_round,
        started_from=origin.started_from,
        why_from_scratch=origin.why_from_scratch,
        wasserstein_gap=last.wasserstein_gap,
        penalty=last.penalty,
    )


def make_training(
    config: TrainConfig,
    strategy: tf.distribute.Strategy,
    source: Source,
    held_out: npt.NDArray[np.uint8],
    store: Store,
    local: Path,
    lease: Lease,
) -> Training:
    """Return a training at round 0. Raises ConfigError if it is conditional and the images have no labels."""
    shape = ImageShape(source.shape[0], source.shape[2], _classes(config, source))
    resolved = precision.resolve(config, store)
    generator = Generator(shape, resolved, source.label_counts if shape.classes else ())
    rounds_per_call = rounds_within(resolved, rounds_that_fit(source.bytes_per_round))
    resolved = resolved.model_copy(update={"rounds_per_call": rounds_per_call})
    state = step.make_state(shape, resolved, strategy)
    return Training(
        config=resolved,
        shape=shape,
        state=state,
        source=source,
        call=make_call(state, resolved, strategy, source),
        broken_weights=make_weights_check(state, strategy),
        generator=generator,
        monitor=make_monitor(config, held_out),
        folder=TrainingFolder(store, local, config, shape, lease),
        progress=Progress(),
    )


def resume_or_start(training: Training, config: TrainConfig, start: Path | None) -> tuple[int | None, warm_start.Origin]:
    """Load the newest checkpoint, else `start` if it is compatible; return the checkpoint's round (or None) and the origin."""
    store = training.folder.store
    last = training.folder.load(state_arrays(training.state))
    if last is not None:
        load_arrays(training.state, last.arrays)
        training.progress = last.progress
        say(f"Resuming from round {last.progress.round} of {training.config.rounds}")
        return last.progress.round, warm_start.read_origin(store)
    origin = warm_start.Origin()
    if start is not None:
        origin, arrays = warm_start.load_start(start, config, training.shape, state_arrays(training.state))
        if origin.started_from:
            load_arrays(training.state, arrays)
    elif config.start_from:
        origin = warm_start.Origin(why_from_scratch="there is no champion yet")
    if origin.why_from_scratch:
        say(f"Not started from the champion: {origin.why_from_scratch}")
    warm_start.write_origin(store, origin)
    say(f"Training {training.config.rounds} rounds from {origin.started_from or 'scratch'} on {config.devices}")
    return None, origin


def export(training: Training, writer: ArtifactWriter) -> int:
    """Write SavedModel, metrics, scores, sample grids and TensorBoard events to the artifact; return the round of the model.

    The model is the last moving average, or the best-scored one if the last one is worse by more than noise.
    """
    progress, weights, exported = training.progress, averages(training.state), training.progress.round
    if progress.got_worse():
        best = progress.best_score()
        weights, exported = progress.best, best.round
        say(f"KID got worse ({progress.scores[-1].kid:.4f}), so the model is from round {best.round} (KID {best.kid:.4f})")
    training.generator.set_weights(weights)
    with tempfile.TemporaryDirectory(prefix="saved-model-") as folder, written_by_tensorflow(writer.path):
        training.generator.save(Path(folder) / "saved_model")  # on this machine: TensorFlow renames what it writes
        writer.copy(Path(folder) / "saved_model")
    if exported == progress.round:  # otherwise the networks got worse, and no training should start from them
        warm_start.save_state(writer, state_arrays(training.state))
    writer.write("metrics.jsonl", checkpoint.json_lines(progress.log))
    writer.write("scores.jsonl", checkpoint.json_lines(progress.scores))
    training.folder.copy_into(writer)
    return exported


def _classes(config: TrainConfig, source: Source) -> int:
    """Return the number of labels that the networks see. Raises ConfigError if they need labels and the images have none."""
    if not config.conditional:
        return 0
    if len(source.label_counts) < 2:
        raise ConfigError(
            "train.conditional = true, but not all training images have a label, or there are fewer than 2 labels.",
            "Use --set train.conditional=false, or ingest with labels (ingest.labels_from_folders = true).",
        )
    return len(source.label_counts)


@contextlib.contextmanager
def _local_folder(store: Store) -> Iterator[Path]:
    """Yield a folder for what TensorFlow writes itself: the store's, or a temporary one if the store is a bucket."""
    if isinstance(store, Folder):
        yield store.path
        return
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        yield Path(folder)


def _leased(store: Store) -> AbstractContextManager[Lease]:
    """Return the lease of a training: two processes must not write the same checkpoints. Raises ArtifactError."""
    return leased(
        store,
        "lease",
        holder="Another process that trains this configuration",
        wait_seconds=LEASE_SECONDS,
        waiting=f"Another process trains this configuration; waiting up to {LEASE_SECONDS} s for it to end",
    )
