"""Runs a Beam pipeline: on the runner that the options name, or here, on as many processes as pay for their start."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from components.errors import ConfigError, PipelineError
from components.ingest.config import LOCAL_RUNNER
from components.ingest.quiet_beam import BeamError, PipelineOptions, beam, grpc
from components.ingest.readers import Reader
from components.ingest.worker_errors import unwrapped

# What runners raise for a failed pipeline: the error itself in this process, else a RuntimeError, or gRPC's own.
RUNNER_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError, BeamError, grpc.RpcError)
BEAM_ERROR_LOGGERS = (
    "apache_beam.runners.common", "apache_beam.runners.worker.sdk_worker", "apache_beam.runners.portability.local_job_service",
)  # fmt: skip
MULTI_PROCESSING = "--direct_running_mode=multi_processing"
LAST_WORDS_BYTES = 10_000
IMAGES_THAT_PAY = 20_000  # for the start of worker processes, about two seconds each


def beam_options(given: tuple[str, ...], reader: Reader) -> tuple[str, ...]:
    """Return the options for Beam: those given, unchanged; without any this machine's cores where there is work for them."""
    if given:
        return given
    workers = min(len(os.sched_getaffinity(0)), len(reader.chunks))
    if workers < 2 or reader.total < IMAGES_THAT_PAY:
        return (LOCAL_RUNNER,)
    return (LOCAL_RUNNER, MULTI_PROCESSING, f"--direct_num_workers={workers}")


def run_pipeline(options: tuple[str, ...], build: Callable[[Any], None], key: str = "ingest.beam_options") -> None:
    """Build a pipeline and run it to its end. Raises ConfigError for wrong options (of `key`), else what a worker raised."""
    with _beam_hushed(), _worker_processes_hushed(options):
        pipeline = new_pipeline(options, key)
        build(pipeline)
        try:
            pipeline.run().wait_until_finish()
        except (PipelineError, *RUNNER_ERRORS) as error:
            raise unwrapped(error) from error


def new_pipeline(options: tuple[str, ...], key: str = "ingest.beam_options") -> beam.Pipeline:
    """Return an empty pipeline with these options. Raises ConfigError in the words of Beam's own parser."""
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
    raise ConfigError(f"{key}: {problem.rstrip('.')}.", "See Beam's documentation of pipeline options.")


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


@contextlib.contextmanager
def _worker_processes_hushed(options: tuple[str, ...]) -> Iterator[None]:
    """Keep what Beam's own worker processes print of their start and end from the terminal, unless the run fails.

    They take no option for it, and write to the error stream that they inherit.
    """
    if MULTI_PROCESSING not in options:
        yield
        return
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(before, said.read()[-LAST_WORDS_BYTES:])
            raise
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
