"""A lease is taken over when its holder ends or falls silent, and a holder that lost it does not write."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.common import lease
from components.common.errors import ArtifactError
from components.common.lease import Entry, leased
from components.common.numbered import numbered, numbers_in
from components.common.processes import id_space
from components.common.store import Bucket, Folder, Store

FOLDER = "work.lease"


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "folder":
        yield Folder(tmp_path)
        return
    bucket = Bucket(f"memory://{tmp_path}")
    yield bucket
    bucket.remove()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.02)


def times(monkeypatch: pytest.MonkeyPatch, renew: float, holder: float, expiry: float) -> None:
    for name, value in {"RENEW_SECONDS": renew, "HOLDER_EXPIRY_SECONDS": holder, "EXPIRY_SECONDS": expiry}.items():
        monkeypatch.setattr(lease, name, value)


def entry_of_another_machine(store: Store, number: int = 1) -> None:
    entry = Entry(id_space="other", pid=1, started_at="1", host="other", written_at="")
    assert store.create(numbered(FOLDER, number), entry.model_dump_json().encode())


def last(store: Store) -> Entry:
    return Entry.model_validate_json(store.read(numbered(FOLDER, numbers_in(store, FOLDER)[-1])))


def refuse(store: Store, message: str, wait_seconds: float = 0.0) -> None:
    with pytest.raises(ArtifactError, match=message), leased(store, FOLDER, holder="Another", wait_seconds=wait_seconds):
        pass


def test_a_lease_is_held_and_released(store: Store) -> None:
    with leased(store, FOLDER, holder="Another") as held:
        held.check()
        assert not last(store).released
        refuse(store, r"^Another \(process \d+ on \S+\) holds \S+work\.lease\. Wait until it ends")
    assert last(store).released
    with leased(store, FOLDER, holder="Another", wait_seconds=0.0):
        assert numbers_in(store, FOLDER) == [3], "numbers are not used twice"


def test_of_many_threads_one_holds_it_at_a_time(tmp_path: Path) -> None:
    store = Folder(tmp_path)  # memory:// is not safe for threads
    inside, most, turns = [0], [0], [0]

    def work() -> None:
        for _ in range(5):
            with leased(store, FOLDER, holder="Another", wait_seconds=60.0) as held:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                held.check()
                time.sleep(0.001)
                turns[0] += 1
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, turns) == ([1], [20])


def test_a_killed_process_of_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\nfrom components.common.lease import leased\nfrom components.common.store import Folder\n"
        f"with leased(Folder(Path({str(tmp_path)!r})), {FOLDER!r}, holder='x'):\n    print('held', flush=True)\n    input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        refuse(Folder(tmp_path), rf"process {process.pid} on")
        process.send_signal(signal.SIGKILL)
        process.wait()
        with leased(Folder(tmp_path), FOLDER, holder="x", wait_seconds=0.0) as held:
            held.check()


def test_a_silent_holder_on_another_machine_is_replaced_after_the_expiry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, 30.0, 90.0, 0.5)
    entry_of_another_machine(store)
    began = time.monotonic()
    with leased(store, FOLDER, holder="Another", wait_seconds=0.0):
        assert time.monotonic() - began > 0.5


def test_a_holder_on_another_machine_that_renews_is_alive(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, 30.0, 90.0, 2.0)
    entry_of_another_machine(store)
    over = threading.Event()

    def renew() -> None:
        number = 2
        while not over.wait(0.1):
            entry_of_another_machine(store, number)
            number += 1

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        refuse(store, r"\(process 1 on other\) holds .* and did not release it within 1 s", 1.0)
    finally:
        over.set()
        thread.join()


def test_the_holder_renews_and_removes_old_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, 0.02, 90.0, 120.0)
    with leased(store, FOLDER, holder="Another") as held:
        wait_until(lambda: (numbers_in(store, FOLDER) or [0])[-1] > 5)
        held.check()
    assert len(numbers_in(store, FOLDER)) == 1


def test_a_holder_that_was_replaced_does_not_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, 0.05, 90.0, 120.0)
    with leased(store, FOLDER, holder="Another") as held:
        number = numbers_in(store, FOLDER)[-1]
        while not store.create(numbered(FOLDER, number + 1), last(store).model_dump_json().encode()):
            number += 1
        with pytest.raises(ArtifactError, match=r"lost its lease .*: another process took it over\. Nothing was written"):
            wait_until(lambda: bool(held.check()))
    assert not last(store).released, "it must not release what another process holds"


def test_a_holder_that_slept_too_long_looks_for_later_holders(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, 300.0, 0.0, 120.0)  # at once overdue, and the thread does not renew
    with leased(store, FOLDER, holder="Another") as held:
        held.check()  # nobody took it over
        entry_of_another_machine(store, 40)  # others took it over, and removed their older files
        with pytest.raises(ArtifactError, match="another process took it over"):
            held.check()
    assert numbers_in(store, FOLDER)[-1] == 40


def test_a_file_that_a_killed_process_left_empty_is_skipped(store: Store) -> None:
    assert store.create(numbered(FOLDER, 7), b"")
    with leased(store, FOLDER, holder="Another", wait_seconds=0.0):
        assert numbers_in(store, FOLDER) == [8]


def test_error_when_the_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuse(Folder(tmp_path / "file"), r"^Cannot write \S+/file/work\.lease/000001\.json: Not a directory\. Free space")


def test_processes_of_this_machine_share_an_id_space() -> None:
    program = "from components.common.processes import id_space\nprint(id_space())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == id_space()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
