"""Whole runs whose folder is on a mounted bucket, and what is done with them afterwards on another machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from components.common.artifacts import read_manifest
from tests.support.command_line import output_of
from tests.support.local_runs import Outcome, leftovers, run
from tests.support.mount import Mount
from tests.support.servers.object_store import Store
from tests.support.two_runs import results_of

pytestmark = pytest.mark.timeout(1800)
STEPS = ["ingest", "validate", "train", "evaluate", "gate", "push"]


class Runs(NamedTuple):
    """One run on a disk, and the same one on the mount, with their folders."""

    disk: Path
    on_disk: Outcome
    mounted: Path
    on_mount: Outcome


@pytest.fixture(scope="module")
def runs(mount: Mount, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    disk = tmp_path_factory.mktemp("disk") / "runs"
    mounted = mount.folder / "runs"
    return Runs(disk, run(disk), mounted, run(mounted))


def test_a_run_on_a_mount_ends_like_one_on_a_disk(runs: Runs) -> None:
    for outcome in (runs.on_disk, runs.on_mount):
        assert outcome.code == 0, outcome.stdout + outcome.stderr
        assert outcome.statuses() == dict.fromkeys(STEPS, "succeeded")
    assert runs.on_mount.stderr == ""
    assert leftovers(runs.mounted) == []
    on_disk, on_mount = results_of(runs.disk), results_of(runs.mounted)
    assert on_mount.summary == on_disk.summary
    assert on_mount.artifacts.keys() == on_disk.artifacts.keys() == {"dataset", "validation", "model", "evaluation"}
    for kind, files in on_disk.artifacts.items():
        assert on_mount.artifacts[kind] == files, kind


def test_the_bucket_holds_complete_artifacts_and_no_temporary_objects(runs: Runs, store: Store) -> None:
    names = set(store.names("runs/"))
    assert not [name for name in names if name.endswith(".tmp")]
    manifests = [name for name in names if name.endswith("/manifest.json")]
    assert {json.loads(store.content(name) or b"")["kind"] for name in manifests} >= {"dataset", "model", "version"}
    for name in manifests:
        files: dict[str, Any] = json.loads(store.content(name) or b"")["files"]
        folder = name.removesuffix("manifest.json")
        assert names >= {folder + file for file in files}, name


def test_an_unchanged_run_takes_every_step_from_the_cache(runs: Runs) -> None:
    again = run(runs.mounted)
    assert again.code == 0, again.stdout + again.stderr
    assert all(row["cached"] for row in again.summary["steps"].values())
    assert again.summary["push"]["decision"] == "unchanged"


def test_another_machine_reads_the_report_and_draws_from_the_model(runs: Runs, other_mount: Mount, tmp_path: Path) -> None:
    folder = other_mount.folder / "runs"
    assert "succeeded" in output_of("runs", "--runs-dir", str(folder))
    assert "report.html" in output_of("report", "--runs-dir", str(folder))
    for registry, out in ((folder / "registry", tmp_path / "mount"), (runs.disk / "registry", tmp_path / "disk")):
        output_of("generate", str(registry), "--count", "3", "--seed", "3", "--out", str(out))
    drawn = {file.name: file.read_bytes() for file in (tmp_path / "mount").iterdir()}
    assert len(drawn) == 4
    assert drawn == {file.name: file.read_bytes() for file in (tmp_path / "disk").iterdir()}


def test_a_rollback_on_one_machine_is_in_service_on_the_other(runs: Runs, mount: Mount, other_mount: Mount) -> None:
    registry = runs.mounted / "registry"
    # A better model: one that the same run has trained for longer.
    longer = run(runs.mounted, "train.rounds=80")
    assert longer.code == 0, longer.stdout + longer.stderr
    assert longer.summary["push"]["decision"] == "published", longer.summary["push"]["reason"]
    there = str(other_mount.folder / "runs" / "registry")
    assert json.loads(output_of("registry", "show", "--registry", there))["version"] == "v0002"
    assert "v0001 is in service; it replaces v0002." in output_of("registry", "rollback", "--registry", str(registry))
    assert json.loads(output_of("registry", "show", "--registry", there))["version"] == "v0001"
    assert "v0002 is in service; it replaces v0001." in output_of("registry", "rollback", "v0002", "--registry", there)
    read_manifest(registry / "versions" / "v0002", "version")
