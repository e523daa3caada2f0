"""Beam's worker processes on this machine, forked from one process that has imported Beam (forked_workers.py).

Beam itself starts each as a new Python process. That takes every worker a second of processor time, before the first image.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Self

from components.ingest.beam.options import MULTI_PROCESSING

PROGRAM = "components.ingest.beam.forked_workers"
STDERR_TAIL_BYTES = 10_000


@contextlib.contextmanager
def worker_processes(options: tuple[str, ...]) -> Iterator[WorkerProcesses | None]:
    """Yield processes for a pipeline whose options ask for them, else None. They import Beam while this process does."""
    if MULTI_PROCESSING not in options:
        yield None
        return
    with WorkerProcesses() as processes:
        yield processes


class WorkerProcesses:
    """The worker processes of one pipeline, until the block ends; what they write to stderr is shown if one of them fails."""

    def __enter__(self) -> Self:
        """Start the process that forks workers. It imports Beam meanwhile."""
        self._stderr = tempfile.TemporaryFile()
        self._forks = subprocess.Popen([sys.executable, "-m", PROGRAM], stdin=subprocess.PIPE, stderr=self._stderr, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        """End all workers."""
        failed = not self.are_well()
        self._forks.communicate()
        if failed:
            self._stderr.seek(0)
            sys.stderr.write(self._stderr.read()[-STDERR_TAIL_BYTES:].decode(errors="replace"))
        self._stderr.close()

    def are_well(self) -> bool:
        """Return whether none of the processes has failed or been killed."""
        return self._forks.poll() is None

    def fork(self, environment: dict[str, str]) -> None:
        """Start a worker with these environment variables, which tell it where the runner listens."""
        assert self._forks.stdin
        with contextlib.suppress(BrokenPipeError):  # are_well() says so
            print(json.dumps(environment), file=self._forks.stdin, flush=True)
