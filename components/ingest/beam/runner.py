"""Runs a Beam pipeline, on the runner that the options name or on this machine, and restores the errors of its workers."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from components.common import errors
from components.common.addresses import is_address, remote_errors
from components.common.errors import ConfigError, PipelineError
from components.ingest.beam import dataflow, flink
from components.ingest.beam.quiet_beam import BeamError, PipelineOptions, beam, grpc
from components.ingest.config import LOCAL_RUNNER, IngestConfig
from components.ingest.sources.chunks import Reader

# What runners raise for a failed pipeline: the error itself in this process, else a RuntimeError, or an error of gRPC.
RUNNER_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError, BeamError, grpc.RpcError)
BEAM_ERROR_LOGGERS = (
    "apache_beam.runners.common", "apache_beam.runners.worker.sdk_worker", "apache_beam.runners.portability.local_job_service",
)  # fmt: skip
# Beam appends this to the first argument of an exception: in ours, between the problem and the cure.
WHILE_RUNNING = re.compile(r" \[while running '[^']*'\] ?")

# Messages of runners when the process of a worker has ended: first Beam's own, then those of a Flink cluster, whose task
# managers are missed by the job manager or by each other.
WORKER_GONE = re.compile(
    r"Channel closed prematurely|client cancelled|Worker subprocess exited|StatusCode\.UNAVAILABLE|Process died"
    r"|TaskManager with id \S+ (is no longer reachable|timed out)|remote task manager was lost"
    r"|IOException: .*Connection reset by peer"
)
# Flink's messages begin with the name and the state of the job, and may be a whole Java stack trace.
FLINK_JOB = re.compile(r"^RuntimeError: Pipeline \S+ failed in state \w+: ")
MULTI_PROCESSING = "--direct_running_mode=multi_processing"
POLL_SECONDS, SECONDS_TO_NOTICE = 0.05, 5.0
STDERR_TAIL_BYTES = 10_000
IMAGES_FOR_PROCESSES = 20_000  # fewer are decoded faster than worker processes start, which takes about two seconds each


def beam_options(config: IngestConfig, reader: Reader, name: str) -> tuple[str, ...]:
    """Return the options for Beam: those of the config, or by default worker processes on this machine for large sources.

    A job on Dataflow without a name gets one from `name`, so that Dataflow refuses a second job that does the same. Raises
    ConfigError for a job on Dataflow that could not work.
    """
    if config.beam_options:
        return dataflow.complete(config, name) if dataflow.is_named(config.beam_options) else config.beam_options
    workers = min(len(os.sched_getaffinity(0)), len(reader.chunks))
    if workers < 2 or reader.total < IMAGES_FOR_PROCESSES:
        return (LOCAL_RUNNER,)
    return (LOCAL_RUNNER, MULTI_PROCESSING, f"--direct_num_workers={workers}")


def run_pipeline(
    options: tuple[str, ...], build: Callable[[Any], None], key: str = "ingest.beam_options", shared: str = ""
) -> None:
    """Build a pipeline and run it to its end. Raises ConfigError for invalid options (of `key`), else what a worker raised.

    `shared` is the location through which workers share files. Only a job with a URL for it may run on Dataflow.
    """
    with _beam_loggers_silenced(), _worker_output_held_back(options):
        on_dataflow = dataflow.is_named(options)
        if on_dataflow and not is_address(shared):
            raise dataflow.no_shared_folder(key)
        pipeline = new_pipeline(options, key)
        build(pipeline)
        try:
            if on_dataflow:
                dataflow.run(pipeline)
            elif flink.is_cluster(pipeline):
                flink.run(pipeline)
            elif MULTI_PROCESSING in options:
                _run_watched(pipeline)
            else:
                pipeline.run().wait_until_finish()
        except remote_errors(PipelineError, *RUNNER_ERRORS) as error:
            raise unwrapped(error) from error


def _run_watched(pipeline: Any) -> None:
    """Run a pipeline on worker processes, and raise if one of them has ended and the runner would wait for ever.

    The runner notices the end of a worker only while that worker has work. But the thread that started the worker process
    raises an error when the process fails, which is caught here.
    """
    worker_died = threading.Event()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            pipeline.run().wait_until_finish()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            raised.append(error)

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if WORKER_GONE.search(str(arguments.exc_value)):
            worker_died.set()
        else:
            before(arguments)

    before, threading.excepthook = threading.excepthook, hook
    try:
        thread = threading.Thread(target=run, name="Beam pipeline", daemon=True)
        thread.start()
        while thread.is_alive() and not worker_died.wait(POLL_SECONDS):
            pass
        thread.join(SECONDS_TO_NOTICE if worker_died.is_set() else None)
    finally:
        threading.excepthook = before
    if raised:
        raise raised[0]
    if thread.is_alive():
        raise worker_gone()


def new_pipeline(options: tuple[str, ...], key: str = "ingest.beam_options") -> beam.Pipeline:
    """Return an empty pipeline with these options. Raises ConfigError with Beam's message."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            parsed = PipelineOptions(flags=list(options))  # without flags Beam would read sys.argv
            parsed.get_all_options()
            return beam.Pipeline(options=parsed)
    except SystemExit:
        problem = stderr.getvalue().strip().splitlines()[-1].partition("error: ")[2]
    except (ValueError, ImportError, AttributeError) as error:  # no such runner
        problem = str(error)
    raise ConfigError(f"{key}: {problem.rstrip('.')}.", "See Beam's documentation of pipeline options.")


@contextlib.contextmanager
def _beam_loggers_silenced() -> Iterator[None]:
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
def _worker_output_held_back(options: tuple[str, ...]) -> Iterator[None]:
    """Hold back what Beam's worker processes write to stderr when they start and end, unless the run fails.

    They have no option for it, and inherit the file descriptor.
    """
    if MULTI_PROCESSING not in options:
        yield
        return
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as output:
        os.dup2(output.fileno(), 2)
        try:
            yield
        except BaseException:
            output.seek(0)
            os.write(before, output.read()[-STDERR_TAIL_BYTES:])
            raise
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)


def unwrapped(error: BaseException) -> BaseException:
    """Return the error that a worker raised, from the error that the runner raised.

    A PipelineError and Ctrl-C are restored. Any other error becomes a PipelineError with its type, its message and the step
    in which it was raised.
    """
    text = "".join(traceback.format_exception_only(error)).strip()
    if re.search(r"(^|: )KeyboardInterrupt\b", text, re.MULTILINE):
        return KeyboardInterrupt()
    ours = re.findall(r"^components\.common\.errors\.(\w+): (.+)$", text, re.MULTILINE)
    if ours:
        name, message = ours[-1]
        problem, _, cure = WHILE_RUNNING.sub("\0", message).partition("\0")
        kind: type[PipelineError] = getattr(errors, name)
        return kind(problem, cure)
    if WORKER_GONE.search(text):
        return worker_gone()
    lines = [line.strip() for line in FLINK_JOB.sub("", text).splitlines() if line.strip()]
    clues = ("[while running", "Caused by: ")
    line = next((line for clue in clues for line in reversed(lines) if clue in line), lines[-1]).removeprefix("Caused by: ")
    return PipelineError(f"The Beam pipeline failed: {line[:400].rstrip('.')}.", "Run with --debug for the traceback.")


def worker_gone() -> PipelineError:
    """Return the error for a worker process that ended before its work was done."""
    return PipelineError(
        "A Beam worker ended unexpectedly: it was killed, or the machine ran out of memory.",
        "Run again: finished chunks are reused.",
    )
