"""The ingest step: from a source to a dataset artifact."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

from components.common.addresses import is_address
from components.common.artifacts import code_digest, digest_of, new_artifact, remove_directory, remove_leftovers, write_text
from components.common.errors import ArtifactError, DataRejectedError
from components.common.locks import locked
from components.common.progress import say, tick
from components.common.section import Summary
from components.dataset.records import NO_LABEL, SPLITS, shard_name
from components.ingest.beam.pipeline import (
    CHUNK_SUFFIX,
    COUNTS_FILE,
    DUPLICATES_FILE,
    QUARANTINE_FILE,
    Counts,
    Place,
    build,
    chunk_name,
    place_of,
)
from components.ingest.beam.runner import beam_options, run_pipeline
from components.ingest.beam.store import bytes_of
from components.ingest.config import IngestConfig
from components.ingest.pixels.crop import provenance
from components.ingest.pixels.decode import pillow_prepared
from components.ingest.sources.fingerprint import source_fingerprint
from components.ingest.sources.readers import Reader, open_source

SECONDS_BETWEEN_TICKS, SECONDS_BETWEEN_LISTINGS = 1.0, 10.0
SPILL_FOLDER = "ingest"
NOT_OF_A_CHUNK = {"max_quarantine_fraction", "beam_options", "shared_folder", "eval_fraction", "tfds_data_dir"}


class IngestSummary(Summary):
    """What became of the images: read = kept + duplicate + quarantined, kept = train + eval."""

    read: int
    kept: int
    duplicate: int
    quarantined: int
    train: int
    eval: int
    labels: int
    source: str


def run(config: IngestConfig, *, out: Path, work_dir: Path | None = None) -> IngestSummary:
    """Read images from config.source and write them as the dataset artifact `out`.

    What is decoded is kept under `work_dir` (beside `out` when None) until the artifact is whole, so that a run after one that
    was killed repeats no finished chunk and no finished shard. Raises ConfigError when the source does not exist or Beam's
    options are wrong, DataRejectedError when no image or too few can be read, ArtifactError when `out` cannot be written.
    """
    reader = open_source(config)
    say(f"Reading {reader.total:,} images from {config.source}")
    with spill_folder(config, out, work_dir) as folder, new_artifact(out, "dataset", config=config) as artifact:
        place = place_of(config, spill_place(config, folder), folder.name)
        options = beam_options(config, reader, folder.name)
        with pillow_prepared(config.max_pixels), _told(reader, place):
            run_pipeline(options, lambda pipeline: build(pipeline, reader, place, config.near_duplicates), shared=place.spill)
        store = place.store
        tally: Counts = json.loads(bytes_of(store, COUNTS_FILE))
        with refused(place):
            refuse_unreadable(config, tally, bytes_of(store, QUARANTINE_FILE).decode(), out)
        for name in files_of(config.shards):
            store.fetch(name, artifact.path / name)
        histogram = {split: label_histogram(tally, split, reader.label_names) for split in SPLITS}
        counts = {name: tally[name] for name in ("read", "kept", "duplicate", "quarantined", *SPLITS)}
        artifact.counts |= counts
        artifact.details |= {
            "image_size": config.image_size,
            "channels": config.channels,
            "source": config.source,
            "resize": provenance(place.decoding),
            "label_names": list(reader.label_names),
            "label_histogram": histogram,
        }
    forget(place)
    labels = {label for split in histogram.values() for label in split} - {"unlabelled"}
    say(
        f"Read {counts['read']:,} = {counts['kept']:,} kept + {counts['duplicate']:,} duplicate"
        f" + {counts['quarantined']:,} quarantined; {counts['train']:,} to train, {counts['eval']:,} held out"
    )
    return IngestSummary(**counts, labels=len(labels), source=config.source)


def spill_key(config: IngestConfig) -> str:
    """Return a digest of everything that chunk files depend on: the source as it is now, how images are made, the code."""
    made = config.model_dump(mode="json", exclude=NOT_OF_A_CHUNK)
    return digest_of([made, source_fingerprint(config), code_digest("ingest")])


@contextlib.contextmanager
def spill_folder(config: IngestConfig, out: Path, work_dir: Path | None) -> Iterator[Path]:
    """Yield the folder for chunk files of this config, which nobody else uses meanwhile; what a killed run left is in it.

    It is kept when the run fails in the middle, and removed when the data is found unfit. Raises ArtifactError when it cannot
    be written.
    """
    parent = work_dir / SPILL_FOLDER if work_dir else out.parent / f".{out.name}.{SPILL_FOLDER}"
    folder = parent / spill_key(config)[:16]
    lock = folder.with_name(f"{folder.name}.lock")
    with locked(lock, holder="Another ingest of the same source", wait_seconds=0.0):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(out.parent, out.name)  # of a run that was killed: the lock says that nobody else writes there now
            yield folder
            remove_directory(folder)
        except DataRejectedError:
            remove_directory(folder)
            raise
        except BaseException:
            if not any(folder.glob(f"*{CHUNK_SUFFIX}")):
                remove_directory(folder)
            raise
        finally:
            lock.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: others work there
                parent.rmdir()


def spill_place(config: IngestConfig, folder: Path) -> str:
    """Return where workers leave files for one another: `folder`, or its namesake behind ingest.shared_folder."""
    return f"{config.shared_folder.rstrip('/')}/{folder.name}" if config.shared_folder else str(folder)


@contextlib.contextmanager
def refused(place: Place) -> Iterator[None]:
    """Let no files of data that is found unfit lie behind an address, where nobody looks."""
    try:
        yield
    except DataRejectedError:
        forget(place)
        raise


def forget(place: Place) -> None:
    """Remove what workers have left behind an address; a folder is removed by who made it."""
    if is_address(place.spill):
        place.store.remove()


def files_of(shards: int) -> tuple[str, ...]:
    """Return the names of the files that become the dataset's."""
    return (
        *(shard_name(split, index, shards) for split in SPLITS for index in range(shards)),
        QUARANTINE_FILE,
        DUPLICATES_FILE,
    )


@contextlib.contextmanager
def _told(reader: Reader, place: Place) -> Iterator[None]:
    """Tell from time to time how many chunks are done, on whatever machine: their files are there to be counted."""
    names = {f"{chunk_name(chunk, place.key)}{CHUNK_SUFFIX}" for chunk in reader.chunks}
    store = place.store
    done_before = len(names & store.names())
    if done_before:
        say(f"Going on from an earlier run: {done_before} of {len(names)} chunks are done")
    over = threading.Event()

    def watch() -> None:
        seconds = SECONDS_BETWEEN_LISTINGS if is_address(place.spill) else SECONDS_BETWEEN_TICKS
        while not over.wait(seconds):
            with contextlib.suppress(ArtifactError):  # the next one may succeed, and the workers notice it themselves
                tick(len(names & store.names()), len(names), f"chunks of {reader.total:,} images decoded")

    thread = threading.Thread(target=watch, name="ingest progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def refuse_unreadable(config: IngestConfig, counts: dict[str, int], listed: str, out: Path) -> None:
    """Raise DataRejectedError when nothing or too little could be read; the list of the others is kept beside `out`."""
    read, bad = counts["read"], counts["quarantined"]
    if bad < read and bad <= config.max_quarantine_fraction * read:
        return
    kept_list = out.parent / QUARANTINE_FILE
    write_text(kept_list, listed)  # the artifact, where it would be, is about to be removed
    first = [json.loads(line) for line in listed.splitlines()[:3]]
    examples = ", ".join(f"{item['id']} ({item['reason']})" for item in first) + (", …" if bad > len(first) else "")
    if bad == read:
        raise DataRejectedError(
            f"None of the {read} files of {config.source} is a readable image: {examples}; all of them: {kept_list}.",
            "Name a source of images.",
        )
    raise DataRejectedError(
        f"{bad} of {read} files could not be read as images ({bad / read:.1%}, allowed"
        f" {config.max_quarantine_fraction:.1%}): {examples}; all of them: {kept_list}.",
        "Mend or remove them, or raise ingest.max_quarantine_fraction.",
    )


def label_histogram(tally: dict[str, int], split: str, names: tuple[str, ...]) -> dict[str, int]:
    """Return the number of images of a split by label: by name where labels have names, else by number."""
    prefix = f"{split} label "
    numbers = {int(key.removeprefix(prefix)): number for key, number in tally.items() if key.startswith(prefix)}
    return {label_text(label, names): numbers[label] for label in sorted(numbers)}


def label_text(label: int, names: tuple[str, ...]) -> str:
    """Return the name of a label, its number where it has none, `unlabelled` for NO_LABEL."""
    if label == NO_LABEL:
        return "unlabelled"
    return names[label] if label < len(names) else str(label)
