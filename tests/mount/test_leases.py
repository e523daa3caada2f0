"""Leases between machines: each process has its own mount of the bucket and its own process ids, so none sees the other."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_runs import ROOT
from tests.support.mount import Mount
from tests.support.servers.object_store import Store

pytestmark = pytest.mark.timeout(600)
# With shorter times than the program's; the caches of the mounts are gcsfuse's own, up to a minute old.
PROGRAM = """
import sys, time
from pathlib import Path
from components.common import lease
from components.common.store import Folder
lease.RENEW_SECONDS, lease.HOLDER_EXPIRY_SECONDS, lease.EXPIRY_SECONDS = 1.0, 4.0, 6.0
with lease.leased(Folder(Path(sys.argv[1])), "lease", holder="Another process", wait_seconds=float(sys.argv[2])) as held:
    print("held", flush=True)
    for line in sys.stdin:
        held.check()
        print("still held", flush=True)
print("released", flush=True)
"""
processes: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    yield
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
    processes.clear()


def machine(mount: Mount, name: str, wait_seconds: float = 60.0) -> subprocess.Popen[str]:
    """Start a process that holds the lease `name` until its input ends, and checks it for each line."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += [sys.executable, "-c", PROGRAM, str(mount.folder / name), str(wait_seconds)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    processes.append(process)
    return process


def says(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def asked(process: subprocess.Popen[str]) -> str:
    """Let a process check its lease; return what it prints."""
    assert process.stdin is not None
    process.stdin.write("check\n")
    process.stdin.flush()
    return says(process)


def last_error(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.read().splitlines()[-1]


def child(process: subprocess.Popen[str]) -> int:
    """Return the id of Python; the process is `unshare`, which waits for it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def signalled(process: subprocess.Popen[str], number: int) -> None:
    subprocess.run(["kill", f"-{number}", str(child(process))], check=True)


@pytest.fixture(autouse=True)
def _needs_unshare() -> None:
    if not shutil.which("unshare"):
        pytest.fail("unshare (util-linux) is not installed")


def test_a_machine_waits_until_the_other_releases_its_lease(mount: Mount, other_mount: Mount, store: Store) -> None:
    first = machine(mount, "released")
    assert says(first) == "held"
    second = machine(other_mount, "released")
    time.sleep(8.0)  # longer than the expiry: the first one is alive and renews
    assert asked(first) == "still held"
    assert second.poll() is None
    assert first.stdin is not None
    first.stdin.close()
    assert says(first) == "released"
    assert says(second) == "held"
    assert asked(second) == "still held"
    assert len(store.names("released/lease/0")) == 1


def test_a_machine_that_does_not_wait_is_told_who_holds_the_lease(mount: Mount, other_mount: Mount) -> None:
    first = machine(mount, "refused")
    assert says(first) == "held"
    second = machine(other_mount, "refused", wait_seconds=0.0)
    assert second.wait(timeout=60) == 1
    assert re.search(r"Another process \(process \d+ on \S+\) holds \S+/refused/lease\. Wait", last_error(second))
    assert asked(first) == "still held"


def test_a_lease_of_a_killed_machine_expires(mount: Mount, other_mount: Mount) -> None:
    first = machine(mount, "killed")
    assert says(first) == "held"
    signalled(first, signal.SIGKILL)
    first.wait(timeout=60)
    killed = time.monotonic()
    second = machine(other_mount, "killed", wait_seconds=0.0)
    assert says(second) == "held"
    assert time.monotonic() - killed > 5.0
    assert asked(second) == "still held"


def test_a_machine_that_slept_while_another_took_over_must_not_write(mount: Mount, other_mount: Mount) -> None:
    first = machine(mount, "slept")
    assert says(first) == "held"
    signalled(first, signal.SIGSTOP)
    second = machine(other_mount, "slept", wait_seconds=0.0)
    assert says(second) == "held"
    signalled(first, signal.SIGCONT)
    assert asked(first) == ""
    assert re.search(r"This process lost its lease \S+/slept/lease: another process took it over\.", last_error(first))
    assert asked(second) == "still held"
