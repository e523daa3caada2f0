"""The ingest step: from a source to a dataset artifact."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from components.artifacts import new_artifact, write_text
from components.errors import ConfigError, DataRejectedError, PipelineError
from components.ingest.beam_pipeline import COUNTS_FILE, QUARANTINE_FILE, build
from components.ingest.config import IngestConfig
from components.ingest.decode import RESIZE, pillow_silenced
from components.ingest.quiet_beam import BeamError, PipelineOptions, beam, grpc
from components.ingest.readers import Reader, open_source
from components.ingest.worker_errors import unwrapped
from components.progress import say
from components.records import NO_LABEL, SPLITS
from components.section import Summary

BALANCE = ("kept", "duplicate", "quarantined")
# What runners raise for a failed pipeline: the error itself in this process, else a RuntimeError, or gRPC's own.
RUNNER_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError, BeamError, grpc.RpcError)
BEAM_ERROR_LOGGERS = ("apache_beam.runners.common", "apache_beam.runners.worker.sdk_worker")


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


def run(config: IngestConfig, *, out: Path) -> IngestSummary:
    """Read images from config.source and write them as the dataset artifact `out`.

    Raises ConfigError when the source does not exist or Beam's options are wrong, DataRejectedError when no image or
    too few can be read, ArtifactError when `out` cannot be written.
    """
    reader = open_source(config)
    say(f"Reading {reader.total:,} images from {config.source}")
    with new_artifact(out, "dataset", config=config) as artifact:
        tally = run_pipeline(config, reader, artifact.path)
        counts = balanced(tally, reader.total)
        refuse_unreadable(config, counts, artifact.path / QUARANTINE_FILE, out)
        histogram = {split: label_histogram(tally, split, reader.label_names) for split in SPLITS}
        artifact.counts |= counts
        artifact.details |= {
            "image_size": config.image_size,
            "channels": config.channels,
            "source": config.source,
            "resize": RESIZE,
            "label_names": list(reader.label_names),
            "label_histogram": histogram,
        }
    labels = {label for split in histogram.values() for label in split} - {"unlabelled"}
    say(
        f"Read {counts['read']:,} = {counts['kept']:,} kept + {counts['duplicate']:,} duplicate"
        f" + {counts['quarantined']:,} quarantined; {counts['train']:,} to train, {counts['eval']:,} held out"
    )
    return IngestSummary(**counts, labels=len(labels), source=config.source)


def run_pipeline(config: IngestConfig, reader: Reader, folder: Path) -> dict[str, int]:
    """Run the Beam pipeline into `folder` and return what it counted, by name. Raises PipelineError."""
    with pillow_silenced(), _beam_hushed():
        pipeline = new_pipeline(config.beam_options)
        build(pipeline, reader, config, folder)
        try:
            pipeline.run().wait_until_finish()
        except (PipelineError, *RUNNER_ERRORS) as error:
            raise unwrapped(error) from error
    for left_over in folder.glob(".*.tmp"):  # of an attempt that the runner repeated
        left_over.unlink()
    file = folder / COUNTS_FILE
    tally: dict[str, int] = json.loads(file.read_text())
    file.unlink()
    return tally


def new_pipeline(options: tuple[str, ...]) -> beam.Pipeline:
    """Return an empty pipeline with ingest.beam_options. Raises ConfigError in the words of Beam's own parser."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = PipelineOptions(flags=list(options))  # without flags Beam would read sys.argv
            parsed.get_all_options()
            return beam.Pipeline(options=parsed)
    except SystemExit:
        problem = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
    except (ValueError, ImportError, AttributeError) as error:  # no such runner
        problem = str(error)
    raise ConfigError(f"ingest.beam_options: {problem.rstrip('.')}.", "See Beam's documentation of pipeline options.")


@contextlib.contextmanager
def _beam_hushed() -> Iterator[None]:
    """Keep Beam from logging a traceback for each layer that an exception passes: it is raised as well."""
    loggers = [logging.getLogger(name) for name in BEAM_ERROR_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def balanced(tally: dict[str, int], total: int) -> dict[str, int]:
    """Return read, kept, duplicate, quarantined, train, eval; each was counted where it happened.

    Raises PipelineError when an image was lost or appeared on the way: read must be the `total` of the source, and
    kept + duplicate + quarantined.
    """
    counts = {name: tally.get(name, 0) for name in ("read", "duplicate", "quarantined", *SPLITS)}
    counts["kept"] = sum(counts[split] for split in SPLITS)
    if not total == counts["read"] == sum(counts[name] for name in BALANCE):
        parts = " + ".join(f"{counts[name]} {name}" for name in BALANCE)
        raise PipelineError(
            f"Images were lost or doubled on the way: {total} in the source, {counts['read']} read, but {parts}.",
            "Run again; if it stays so, report it together with ingest.beam_options.",
        )
    return counts


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
