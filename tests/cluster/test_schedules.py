"""A schedule: made, fired twice, paused, resumed, deleted while a run of it goes on."""

from __future__ import annotations

import json
import time

from tests.cluster.cluster import CONFIG, Cluster, Run, wait_for

ENDED = ("SUCCEEDED", "FAILED", "CANCELED")


def test_a_schedule_from_its_creation_to_its_deletion(cluster: Cluster, first_run: Run, shell: str) -> None:
    name = cluster.name

    def schedule(action: str, *words: str) -> tuple[int, str]:
        return cluster.command("schedule", action, *words, *cluster.platform())

    def states() -> list[str]:
        return [run["state"] for run in cluster.runs_of(name)]

    def all_ended() -> bool:
        return all(state in ENDED for state in states())

    code, output = schedule("create", str(CONFIG), "--name", name, "--cron", "* * * * *", *cluster.settings())
    assert code == 0, output
    words = output.splitlines()[0].removeprefix(f"Schedule {name}: ").removesuffix(".")
    try:
        wait_for(lambda: states().count("SUCCEEDED") >= 2, "two runs of the schedule", 1200)
        assert schedule("pause", name) == (0, f"Paused {name}.\n")
        wait_for(all_ended, "the end of its runs", 600)
        ended = states()
        assert set(ended) == {"SUCCEEDED"}
        for run in cluster.runs_of(name):
            file = f"{cluster.folder}/{run['display_name']}/summary.json"
            summary = json.loads(cluster.kubectl("exec", shell, "--", "cat", file))
            assert (summary["run_id"], summary["status"]) == (run["display_name"], "succeeded")
        assert f"{name} paused {words}" in " ".join(schedule("list")[1].split())
        time.sleep(100)
        assert states() == ended
        assert schedule("resume", name) == (0, f"Resumed {name}.\n")
        assert f"{name} on {words}" in " ".join(schedule("list")[1].split())
        wait_for(lambda: not all_ended(), "a run after the pause", 300)
        code, output = schedule("delete", name)
        assert code == 2, output
        assert f"Schedule {name} is paused, but not deleted: its run {name}" in " ".join(output.split())
    finally:
        deleted = schedule("delete", name, "--wait")
    assert deleted == (0, f"Deleted {name}.\n")
    assert name not in schedule("list")[1]
