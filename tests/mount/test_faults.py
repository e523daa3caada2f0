"""The object store refuses or delays requests while a run writes to a mounted bucket."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from tests.support.local_runs import interrupt, latest_summary, leftovers, run, start, step_runs, wait_for
from tests.support.mount import Mount
from tests.support.servers.bucket_proxy import RESET, WRITES, Fault
from tests.support.servers.object_store import Store
from tests.support.trainings import Training, data, no_process_outlives_its_test, one_sentence

__all__ = ["data", "no_process_outlives_its_test"]  # fixtures
pytestmark = pytest.mark.timeout(1800)
STEPS = ["ingest", "validate", "train", "evaluate", "gate", "push"]
# A bucket without write permission; one that takes no new objects (a quota), but still removes old ones.
REFUSALS = {"read-only": Fault(403, WRITES), "full": Fault(403, ("insert", "part", "copy"))}


def test_a_run_goes_on_after_the_store_was_away_for_a_while(store: Store, mount: Mount) -> None:
    """Every few seconds the store answers 429 or 503, or breaks connections, for two seconds."""
    over, counts = threading.Event(), dict[str, int]()

    def disturb() -> None:
        faults = [Fault(429), Fault(503), Fault(RESET)]
        while not over.wait(4.0):
            faults.append(faults.pop(0))
            store.proxy.inject(faults[-1])
            over.wait(2.0)
            store.proxy.inject()

    store.proxy.traffic()
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        outcome = run(mount.folder / "disturbed")
    finally:
        over.set()
        thread.join()
    counts = store.proxy.traffic().statuses
    print({status: counts[status] for status in ("429", "503", str(RESET))})
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    assert outcome.statuses() == dict.fromkeys(STEPS, "succeeded")
    assert leftovers(mount.folder / "disturbed") == []
    assert counts["429"] + counts["503"] + counts[str(RESET)] > 5


@pytest.mark.parametrize("why", REFUSALS)
def test_a_run_is_refused_with_one_sentence_before_it_starts(why: str, store: Store, mount: Mount) -> None:
    store.proxy.inject(REFUSALS[why])
    outcome = run(mount.folder / f"refused-{why}")
    assert outcome.code in (1, 2), outcome.stdout
    assert "Traceback" not in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert re.search(r"Permission denied|cannot be written|not writable", outcome.stderr), outcome.stderr
    assert store.names(f"refused-{why}") == []


@pytest.mark.parametrize("why", REFUSALS)
def test_a_training_that_may_no_longer_write_stops_with_one_sentence_and_resumes(
    why: str, store: Store, mount: Mount, data: tuple[Path, Path], tmp_path: Path
) -> None:
    training = Training(tmp_path / "training", data, mount.folder / f"training-{why}")
    process = training.start()
    training.wait_until(lambda: training.rounds_saved() >= 20)
    store.proxy.inject(REFUSALS[why])
    assert process.wait(timeout=300) == 1, training.printed()
    assert re.fullmatch(r"train: Cannot (write|remove) \S+: Permission denied\. .*", one_sentence(training)), training.printed()
    store.proxy.inject()
    training.finish()
    assert "» Resuming from round" in training.printed()
    assert training.unfinished() == []


@pytest.mark.parametrize("step", ["ingest", "push"])  # train: the test above
def test_a_run_that_may_no_longer_write_ends_and_the_next_one_succeeds(step: str, store: Store, mount: Mount) -> None:
    runs = mount.folder / f"run-{step}"
    process = start(runs)
    try:
        wait_for(step_runs(runs, step), seconds=300)
        store.proxy.inject(REFUSALS["read-only"])
        output, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            interrupt(process)
    store.proxy.inject()
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert "Permission denied" in output
    again = run(runs)
    assert again.code == 0, again.stdout + again.stderr
    assert leftovers(runs) == []
    assert latest_summary(runs)["status"] == "succeeded"
