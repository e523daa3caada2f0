"""The ingest step: from a source to a dataset artifact."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import filelock

from components.artifacts import (
    ArtifactWriter,
    code_digest,
    digest_of,
    new_artifact,
    remove_directory,
    remove_leftovers,
    write_text,
)
from components.errors import ArtifactError, DataRejectedError
from components.ingest.beam_pipeline import (
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
from components.ingest.config import IngestConfig
from components.ingest.decode import pillow_prepared
from components.ingest.readers import Reader, open_source
from components.ingest.runner import beam_options, run_pipeline
from components.ingest.sources import source_fingerprint
from components.ingest.square import provenance
from components.progress import say, tick
from components.records import NO_LABEL, SPLITS, shard_name
from components.section import Summary

SECONDS_BETWEEN_TICKS = 1.0
SPILL_FOLDER = "ingest"
NOT_OF_A_CHUNK = {"max_quarantine_fraction", "beam_options", "eval_fraction", "tfds_data_dir"}


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
    with spill_folder(config, out, work_dir) as spill, new_artifact(out, "dataset", config=config) as artifact:
        place = place_of(config, spill, spill.name)
        options = beam_options(config.beam_options, reader)
        with pillow_prepared(config.max_pixels), _told(reader, place):
            run_pipeline(options, lambda pipeline: build(pipeline, reader, place, config.near_duplicates))
        tally: Counts = json.loads((spill / COUNTS_FILE).read_text())
        refuse_unreadable(config, tally, spill / QUARANTINE_FILE, out)
        move_in(spill, artifact, config.shards)
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise ArtifactError(f"Another ingest of the same source works in {folder}.", "Wait until it is done.") from None
    except OSError as error:
        raise ArtifactError(f"Cannot write {out}: {error.strerror}.", "Name a writable folder.") from error
    try:
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
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: others work there
            parent.rmdir()


def move_in(spill: Path, artifact: ArtifactWriter, shards: int) -> None:
    """Move the finished files from the spill folder into the artifact."""
    names = [shard_name(split, index, shards) for split in SPLITS for index in range(shards)]
    for name in (*names, QUARANTINE_FILE, DUPLICATES_FILE):
        shutil.move(spill / name, artifact.path / name)


@contextlib.contextmanager
def _told(reader: Reader, place: Place) -> Iterator[None]:
    """Tell from time to time how many chunks are done, on whatever machine: their files are there to be counted."""
    names = {f"{chunk_name(chunk, place.key)}{CHUNK_SUFFIX}" for chunk in reader.chunks}
    done_before = len(names & {file.name for file in place.folder.iterdir()})
    if done_before:
        say(f"Going on from an earlier run: {done_before} of {len(names)} chunks are done")
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SECONDS_BETWEEN_TICKS):
            done = sum(file.suffix == CHUNK_SUFFIX for file in place.folder.iterdir())
            tick(min(done, len(names)), len(names), f"chunks of {reader.total:,} images decoded")

    thread = threading.Thread(target=watch, name="ingest progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def refuse_unreadable(config: IngestConfig, counts: dict[str, int], quarantine: Path, out: Path) -> None:
    """Raise DataRejectedError when nothing or too little could be read; the list of the others is kept beside `out`."""
    read, bad = counts["read"], counts["quarantined"]
    if bad < read and bad <= config.max_quarantine_fraction * read:
        return
    kept_list = out.parent / QUARANTINE_FILE
    text = quarantine.read_text()
    write_text(kept_list, text)  # the artifact, where it would be, is about to be removed
    first = [json.loads(line) for line in text.splitlines()[:3]]
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
