"""The options for Beam: those of the config, or by default all cores of this machine. Importing this does not import Beam."""

from __future__ import annotations

import os

from components.ingest.beam import dataflow
from components.ingest.config import LOCAL_RUNNER, IngestConfig
from components.ingest.sources.chunks import Reader

MULTI_PROCESSING = "--direct_running_mode=multi_processing"
IMAGES_FOR_PROCESSES = 20_000  # fewer are decoded faster than worker processes start


def beam_options(config: IngestConfig, reader: Reader, name: str) -> tuple[str, ...]:
    """Return the options for Beam: those of the config, or by default worker processes on this machine for large sources.

    A job on Dataflow without a name gets one from `name`, so that Dataflow refuses a second job that does the same. Raises
    ConfigError for a job on Dataflow that could not work.
    """
    if config.beam_options:
        return dataflow.complete(config, name) if dataflow.is_named(config.beam_options) else config.beam_options
    return local_options(len(reader.chunks) if reader.total >= IMAGES_FOR_PROCESSES else 1)


def local_options(tasks: int) -> tuple[str, ...]:
    """Return options for one process on each core of this machine, but no more processes than tasks."""
    workers = min(len(os.sched_getaffinity(0)), tasks)
    return (LOCAL_RUNNER, *((MULTI_PROCESSING, f"--direct_num_workers={workers}") if workers > 1 else ()))
