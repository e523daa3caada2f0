"""The program behind worker processes on this machine: it imports Beam once, and forks a worker for each line of its input.

    python -m components.ingest.beam.forked_workers

A line has the environment variables of a worker as JSON. If a worker fails or is killed, this process ends the others and
itself with an error; at the end of its input it ends them and itself. It uses no gRPC and no threads, so that forking is safe.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

WORKER = "apache_beam.runners.worker.sdk_worker_main"
workers: list[int] = []


def main() -> NoReturn:
    """Fork workers until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the main process decides, and closes the input
    signal.signal(signal.SIGCHLD, _reap)
    for module in ("components.ingest.beam.pipeline", WORKER):  # the first keeps Beam quiet
        importlib.import_module(module)
    gc.freeze()
    for line in sys.stdin:
        # No worker can end between fork and append, and be missed.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid = os.fork()
        if not pid:
            _work(json.loads(line))
        workers.append(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    _end(0)


def _work(environment: dict[str, str]) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ |= environment
    code = 1
    try:
        sys.modules[WORKER].main([])
        code = 0
    except BaseException:  # noqa: BLE001 - the end of this process
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _reap(*_: Any) -> None:
    """Forget the workers that have ended; if one has failed, end."""
    while workers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        workers.remove(pid)
        if status:
            _end(1)


def _end(code: int) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    for pid in workers:
        os.waitpid(pid, 0)
    os._exit(code)


if __name__ == "__main__":
    main()
