"""The ingest step: from a source to a dataset artifact."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from components.common.addresses import is_address, joined
from components.common.artifacts import code_digest, digest_of, new_artifact, remove_leftovers
from components.common.errors import ArtifactError, DataRejectedError
from components.common.lease import leased
from components.common.mounts import is_mounted_bucket
from components.common.progress import say, tick
from components.common.section import Summary
from components.common.store import Bucket, Folder, Location, Store, store_at, writing
from components.dataset.records import NO_LABEL, SPLITS, shard_name
from components.ingest.beam.listed_chunks import write_chunks
from components.ingest.beam.options import beam_options
from components.ingest.beam.results import QUARANTINE_FILE, Counts, read_counts, write_lists
from components.ingest.beam.tasks import CHUNK_SUFFIX, WorkerSettings, chunk_name, worker_settings
from components.ingest.beam.worker_processes import worker_processes
from components.ingest.config import IngestConfig
from components.ingest.pixels.crop import provenance
from components.ingest.pixels.decode import pillow_prepared
from components.ingest.sources.chunks import Reader
from components.ingest.sources.readers import open_source

SECONDS_BETWEEN_TICKS, SECONDS_BETWEEN_REMOTE_TICKS = 1.0, 10.0
MIN_PAUSE_OVER_LISTING = 50  # so that counting the files of a large source costs at most 2 % of a core
WORK_FOLDER = "ingest"
# Config keys that no chunk file depends on.
NOT_IN_CHUNKS = {"max_quarantine_fraction", "beam_options", "shared_folder", "eval_fraction", "tfds_data_dir"}


class IngestSummary(Summary):
    """Counts of images: read = kept + duplicate + quarantined, kept = train + eval."""

    read: int
    kept: int
    duplicate: int
    quarantined: int
    train: int
    eval: int
    labels: int
    source: str


def run(config: IngestConfig, *, out: Path, work_dir: Location | None = None, listing: Path | None = None) -> IngestSummary:
    """Read images from config.source and write them as the dataset artifact `out`.

    `listing` is where this run has saved the listing of the source, if it has.
    Decoded images are stored under `work_dir` (beside `out` when None) until the artifact is complete, so that a run after
    one that was killed repeats no finished chunk or shard; see chunk_location for buckets. Raises ConfigError when the
    source does not exist or Beam's options are invalid, DataRejectedError when too few images can be read, ArtifactError when
    `out` cannot be written.
    """
    reader = open_source(config, listing)
    say(f"Reading {reader.total:,} images from {config.source}")
    with chunk_location(config, reader, out, work_dir) as location, new_artifact(out, "dataset", config=config) as artifact:
        name = PurePosixPath(location).name
        settings = worker_settings(config, location, name)
        options = beam_options(config, reader, name)
        store, chunks = settings.store, len(reader.chunks)
        with worker_processes(options) as processes, pillow_prepared(config.max_pixels), _progress(reader, settings):
            # Imported here, because it takes half a second, and so does the start of the processes.
            from components.ingest.beam.pipeline import build
            from components.ingest.beam.runner import run_pipeline

            write_chunks(store, reader.chunks)
            graph = partial(build, chunks=chunks, settings=settings, max_bits=config.near_duplicates)
            run_pipeline(options, graph, processes, shared=location)
        sums = read_counts(store, config.shards, reader.total)
        write_lists(store, config.shards, artifact)
        try:
            refuse_unreadable(config, sums, artifact.path / QUARANTINE_FILE, out)
        except DataRejectedError:
            _remove_shared(settings)
            raise
        shards = (shard_name(split, number, config.shards) for split in SPLITS for number in range(config.shards))
        for name in shards:
            if isinstance(store, Folder):
                artifact.take(store.path / name)
            else:
                store.fetch(name, artifact.path / name)
        histogram = {split: label_histogram(sums, split, reader.label_names) for split in SPLITS}
        counts = {name: sums[name] for name in ("read", "kept", "duplicate", "quarantined", *SPLITS)}
        artifact.counts |= counts
        artifact.details |= {
            "image_size": config.image_size,
            "channels": config.channels,
            "source": config.source,
            "resize": provenance(settings.decoding),
            "label_names": list(reader.label_names),
            "label_histogram": histogram,
        }
    _remove_shared(settings)
    labels = {label for split in histogram.values() for label in split} - {"unlabelled"}
    say(
        f"Read {counts['read']:,} = {counts['kept']:,} kept + {counts['duplicate']:,} duplicate"
        f" + {counts['quarantined']:,} quarantined; {counts['train']:,} to train, {counts['eval']:,} held out"
    )
    return IngestSummary(**counts, labels=len(labels), source=config.source)


@contextlib.contextmanager
def chunk_location(config: IngestConfig, reader: Reader, out: Path, work_dir: Location | None) -> Iterator[str]:
    """Yield the location for chunk files of this config and source, with those of a run that was killed; hold its lease.

    Its name is a digest of all that chunk files depend on: the listed source, the config and the code. A run that fails
    leaves it for the next one; rejected data does not. With `work_dir` in a bucket and all workers on this machine, it is a
    temporary folder of its disk: in the bucket, chunk files would triple the traffic. Raises ArtifactError when it cannot be
    written.
    """
    store = store_at(work_dir, WORK_FOLDER) if work_dir else store_at(out.parent / f".{out.name}.{WORK_FOLDER}")
    listing = [chunk_name(chunk, "") for chunk in reader.chunks]
    name = digest_of([config.model_dump(mode="json", exclude=NOT_IN_CHUNKS), listing, code_digest("ingest")])[:16]
    behind_url = isinstance(store, Bucket)
    shared = config.shared_folder or (store.location if behind_url and config.beam_options else "")
    folder = Path(store.location) / name
    try:
        with leased(store, f"{name}.lease", holder="Another ingest of the same source", wait_seconds=0.0) as lease:
            if behind_url or (is_mounted_bucket(folder) and not config.beam_options):
                with tempfile.TemporaryDirectory(prefix="ingest-") as temporary:
                    folder = Path(temporary) / name
                    folder.mkdir()
                    yield joined(shared or temporary, name)
                return
            try:
                folder.mkdir(exist_ok=True)
                remove_leftovers(folder)
                yield joined(shared or store.location, name)
                lease.check()
                store.remove(name)
            except BaseException as error:
                with contextlib.suppress(OSError):  # a mount that is gone must not hide the first error
                    if isinstance(error, DataRejectedError) or not any(folder.glob(f"*{CHUNK_SUFFIX}")):
                        shutil.rmtree(folder, ignore_errors=True)
                raise
    finally:
        with contextlib.suppress(OSError, ArtifactError):
            if work_dir is None and not folder.exists():
                store.remove()


def _remove_shared(settings: WorkerSettings) -> None:
    """Remove the files of workers behind a URL; `chunk_location` removes a local folder."""
    if is_address(settings.location):
        settings.store.remove()


@contextlib.contextmanager
def _progress(reader: Reader, settings: WorkerSettings) -> Iterator[None]:
    """Report regularly how many chunks are finished, on any machine, by counting their files."""
    store, total = settings.store, len(reader.chunks)
    finished = _finished_chunks(store)
    if finished:
        say(f"Resuming an earlier run: {finished} of {total} chunks are finished")
    over = threading.Event()

    def watch() -> None:
        seconds = SECONDS_BETWEEN_REMOTE_TICKS if is_address(settings.location) else SECONDS_BETWEEN_TICKS
        pause = seconds
        while not over.wait(pause):
            started = time.monotonic()
            with contextlib.suppress(ArtifactError):  # the next listing may succeed; the workers report lasting errors
                tick(_finished_chunks(store), total, f"chunks of {reader.total:,} images decoded")
            pause = max(seconds, MIN_PAUSE_OVER_LISTING * (time.monotonic() - started))

    thread = threading.Thread(target=watch, name="ingest progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _finished_chunks(store: Store) -> int:
    return sum(name.endswith(CHUNK_SUFFIX) for name in store.names())


def refuse_unreadable(config: IngestConfig, counts: Counts, quarantine: Path, out: Path) -> None:
    """Raise DataRejectedError when too few images could be read; the list of the others is moved beside `out`."""
    read, bad = counts["read"], counts["quarantined"]
    if bad < read and bad <= config.max_quarantine_fraction * read:
        return
    with quarantine.open() as stream:
        first = [json.loads(line) for line in itertools.islice(stream, 3)]
    file = out.parent / QUARANTINE_FILE  # not in the artifact, which is about to be removed
    with writing(str(file)):
        shutil.move(quarantine, file)
    examples = ", ".join(f"{item['id']} ({item['reason']})" for item in first) + (", …" if bad > len(first) else "")
    if bad == read:
        raise DataRejectedError(
            f"None of the {read} files of {config.source} is a readable image: {examples}; full list: {file}.",
            "Name a source of images.",
        )
    raise DataRejectedError(
        f"{bad} of {read} files could not be read as images ({bad / read:.1%}, allowed"
        f" {config.max_quarantine_fraction:.1%}): {examples}; full list: {file}.",
        "Repair or remove them, or raise ingest.max_quarantine_fraction.",
    )


def label_histogram(sums: Counts, split: str, names: tuple[str, ...]) -> dict[str, int]:
    """Return the number of images of a split by label: by name where labels have names, else by number."""
    prefix = f"{split} label "
    counts = {int(key.removeprefix(prefix)): count for key, count in sums.items() if key.startswith(prefix)}
    texts = {NO_LABEL: "unlabelled", **dict(enumerate(names))}
    return {texts.get(label, str(label)): counts[label] for label in sorted(counts)}
