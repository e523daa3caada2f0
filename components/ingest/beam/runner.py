"""Runs a Beam pipeline, on the runner that the options name or on this machine, and restores the errors of its workers."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from google.protobuf import json_format, text_format

from components.common import errors
from components.common.addresses import is_address, remote_errors
from components.common.errors import ConfigError, PipelineError
from components.ingest.beam import dataflow, flink
from components.ingest.beam.quiet_beam import (
    SUBPROCESS_SDK,
    BeamError,
    GrpcWorkerHandler,
    PipelineOptions,
    WorkerHandler,
    beam,
    grpc,
)
from components.ingest.beam.worker_processes import WorkerProcesses

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
    r"Channel closed prematurely|client cancelled|StatusCode\.UNAVAILABLE|Process died"
    r"|TaskManager with id \S+ (is no longer reachable|timed out)|remote task manager was lost"
    r"|IOException: .*Connection reset by peer"
)
# Flink's messages begin with the name and the state of the job, and may be a whole Java stack trace.
FLINK_JOB = re.compile(r"^RuntimeError: Pipeline \S+ failed in state \w+: ")
POLL_SECONDS, SECONDS_TO_NOTICE = 0.05, 5.0


def run_pipeline(
    options: tuple[str, ...],
    build: Callable[[Any], None],
    processes: WorkerProcesses | None = None,
    *,
    key: str = "ingest.beam_options",
    shared: str = "",
) -> None:
    """Build a pipeline and run it to its end. Raises ConfigError for invalid options (of `key`), else what a worker raised.

    `processes` are those of `worker_processes(options)`. `shared` is the location through which workers share files. Only a job
    with a URL for it may run on Dataflow.
    """
    with _beam_loggers_silenced():
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
            elif processes:
                _run_on(processes, pipeline)
            else:
                pipeline.run().wait_until_finish()
        except remote_errors(PipelineError, *RUNNER_ERRORS) as error:
            raise unwrapped(error) from error


class _ForkedWorker(GrpcWorkerHandler):  # type: ignore[misc]  # Beam ships no types
    """What the local runner does to start and stop a worker process: here it is forked."""

    def __init__(self, processes: WorkerProcesses, _command: bytes, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._processes = processes

    def start_worker(self) -> None:
        """Fork a worker, and tell it its name, the options of the pipeline and where to ask for work."""
        options = json_format.MessageToJson(self.provision_info.provision_info.pipeline_options)
        control = text_format.MessageToString(self.control_api_service_descriptor())
        self._processes.fork(
            {"WORKER_ID": self.worker_id, "PIPELINE_OPTIONS": options, "CONTROL_API_SERVICE_DESCRIPTOR": control}
        )

    def stop_worker(self) -> None:
        """The worker ends when the runner has closed its connection."""


def _run_on(processes: WorkerProcesses, pipeline: Any) -> None:
    """Run a pipeline on worker processes, and raise if one of them has ended and the runner would wait for ever.

    The runner notices the end of a worker only while that worker has work.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            pipeline.run().wait_until_finish()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            raised.append(error)

    WorkerHandler.register_environment(SUBPROCESS_SDK, bytes)(partial(_ForkedWorker, processes))
    thread = threading.Thread(target=run, name="Beam pipeline", daemon=True)
    thread.start()
    while thread.is_alive() and processes.are_well():
        thread.join(POLL_SECONDS)
    thread.join(SECONDS_TO_NOTICE)
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
