"""What a mounted bucket does and does not promise; components/common stands on this (docs/object-stores.md)."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.common.artifacts import write_bytes
from components.common.store import store_at
from tests.support.local_runs import wait_for
from tests.support.mount import Mount
from tests.support.servers.bucket_proxy import LOST, RESET, WRITES, Fault
from tests.support.servers.object_store import Store

RACES = 100
pytestmark = pytest.mark.timeout(300)


def create(file: Path, content: bytes) -> str:
    """Create a file exclusively; return "" or the step that failed, with its error."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except OSError as error:
        return f"open: {errno.errorcode[error.errno]}"
    os.write(descriptor, content)
    try:
        os.close(descriptor)
    except OSError as error:
        return f"close: {errno.errorcode[error.errno]}"
    return ""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_another_mount_has_created_is_refused_at_open_or_at_close(
    store: Store, mount: Mount, other_mount: Mount
) -> None:
    mount.folder.joinpath("unasked").write_bytes(b"first")
    assert create(other_mount.folder / "unasked", b"second") == "open: EEXIST"
    assert not (other_mount.folder / "asked").exists()  # remembered for 5 s
    mount.folder.joinpath("asked").write_bytes(b"first")
    assert create(other_mount.folder / "asked", b"second") == "close: ESTALE"
    assert store.content("unasked") == store.content("asked") == b"first"


def test_of_two_mounts_that_create_a_file_at_once_one_wins(store: Store, mount: Mount, other_mount: Mount) -> None:
    start = threading.Barrier(2)

    def creations(mounted: Mount) -> list[bool]:
        races, found = store_at(str(mounted.folder / "races")), []
        for number in range(RACES):
            start.wait(30)
            found.append(races.create(f"{number:06d}.json", str(mounted.folder).encode()))
        return found

    with ThreadPoolExecutor(2) as pool:
        won = list(zip(*pool.map(creations, (mount, other_mount)), strict=True))
    for number, (first, second) in enumerate(won):
        assert first != second, number
        winner = mount if first else other_mount
        assert store.content(f"races/{number:06d}.json") == str(winner.folder).encode()
    assert {True, False} == {first for first, _ in won}
    assert len(store.names("races/0")) == RACES
    assert not [name for name in store.names("races/") if name.endswith(".tmp")]


def test_a_listing_is_fresh_and_shows_new_content(mount: Mount, other_mount: Mount) -> None:
    folder = mount.folder / "listed"
    folder.mkdir()
    assert not (other_mount.folder / "listed" / "new").exists()
    (folder / "new").write_bytes(b"1")
    assert not (other_mount.folder / "listed" / "new").exists(), "remembered for 5 s"
    assert names(other_mount.folder / "listed") == ["new"]
    assert (other_mount.folder / "listed" / "new").read_bytes() == b"1"
    (folder / "new").write_bytes(b"22")
    assert (other_mount.folder / "listed" / "new").read_bytes() == b"1", "remembered for 60 s"
    names(other_mount.folder / "listed")
    assert (other_mount.folder / "listed" / "new").read_bytes() == b"22"


HALF = """
import sys, time
stream = open(sys.argv[1], "wb")
stream.write(b"x" * 3_000_000)
stream.flush()
print("written", flush=True)
time.sleep(600)
"""


def half_written(file: Path) -> subprocess.Popen[bytes]:
    """Start a process that has written 3 MB of a file which it does not close."""
    process = subprocess.Popen([sys.executable, "-c", HALF, str(file)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_killed_writer_leaves_a_partial_file_so_only_a_manifest_proves_anything(store: Store, mount: Mount) -> None:
    process = half_written(mount.folder / "half")
    assert store.content("half") is None
    process.kill()
    process.communicate()
    wait_for(lambda: store.content("half") is not None, seconds=30)
    assert len(store.content("half") or b"") == 3_000_000


def test_a_file_that_gcsfuse_had_not_sent_is_lost_when_it_is_killed(store: Store, mount: Mount) -> None:
    process = half_written(mount.folder / "lost")
    mount.kill()
    process.kill()
    process.communicate()
    with pytest.raises(OSError, match="not connected"):
        names(mount.folder)
    mount.restart()
    assert store.content("lost") is None
    write_bytes(mount.folder / "lost", b"again")
    assert store.content("lost") == b"again"


@pytest.mark.parametrize("status", [429, 503, RESET])
def test_gcsfuse_repeats_what_fails_for_a_while(status: int, store: Store, mount: Mount) -> None:
    store.proxy.traffic()
    store.proxy.inject(Fault(status))
    timer = threading.Timer(3.0, store.proxy.inject)
    timer.start()
    write_bytes(mount.folder / f"repeated{status}", b"content")
    timer.join()
    assert store.content(f"repeated{status}") == b"content"
    assert store.proxy.traffic().statuses[str(status)] > 0


def test_creating_a_file_whose_answer_is_lost_is_recognised_as_our_own(store: Store, mount: Mount) -> None:
    store.proxy.inject(Fault(LOST, ("insert",), ".*/own"))
    timer = threading.Timer(1.0, store.proxy.inject)
    timer.start()
    assert store_at(str(mount.folder / "leases")).create("own", b"mine, and nobody else's")
    timer.join()
    assert store.content("leases/own") == b"mine, and nobody else's"


def test_a_read_only_bucket_refuses_at_close_and_keeps_nothing(store: Store, mount: Mount) -> None:
    store.proxy.inject(Fault(403, WRITES))
    assert create(mount.folder / "refused", b"x") == "close: EACCES"
    store.proxy.inject()
    assert store.content("refused") is None
