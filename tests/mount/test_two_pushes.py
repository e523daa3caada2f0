"""Two machines push into one registry at once, each through its own mount of the bucket."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.common.artifacts import read_manifest
from tests.support.local_runs import ROOT, run
from tests.support.mount import Mount
from tests.support.servers.object_store import Store

pytestmark = pytest.mark.timeout(1800)
REGISTRIES = 2


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Return the inputs of push for two models that differ in their seed."""
    runs = tmp_path_factory.mktemp("candidates")
    found = []
    for seed in (1, 2):
        outcome = run(runs, f"train.seed={seed}", f"push.registry={runs / 'registry'}")
        assert outcome.code == 0, outcome.stdout + outcome.stderr
        paths = {step: row["path"] for step, row in outcome.summary["artifacts"].items()}
        found.append({"model": paths["train"], "evaluation": paths["evaluate"], "validation": paths["validate"]})
    return found


def start(step: str, paths: dict[str, str | Path]) -> subprocess.Popen[str]:
    """Start a step; its artifact goes to a disk, a version to the registry."""
    words = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    command = [sys.executable, "-m", f"components.{step}", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_push(inputs: dict[str, str], registry: Path, folder: Path) -> subprocess.Popen[str]:
    """Judge a model beside a champion that the registry does not have yet, and start its push."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("[gate]\nfirst_share = 0.0\n")
    paths: dict[str, str | Path] = {"registry": registry, **inputs}
    gate = start("gate", {**paths, "config": folder / "config.toml", "out": folder / "verdict"})
    output, _ = gate.communicate(timeout=300)
    assert gate.returncode == 0, output
    return start("push", {**paths, "verdict": folder / "verdict", "out": folder / "push"})


def test_two_pushes_at_once_get_two_numbers_and_publish_nothing_half(
    candidates: list[dict[str, str]], store: Store, mount: Mount, other_mount: Mount, tmp_path: Path
) -> None:
    for number in range(REGISTRIES):
        name = f"registry-{number}"
        pushes = [
            start_push(inputs, each.folder / name, tmp_path / f"{number}-{index}")
            for index, (inputs, each) in enumerate(zip(candidates, (mount, other_mount), strict=True))
        ]
        outputs = [push.communicate(timeout=300)[0] for push in pushes]
        assert [push.returncode for push in pushes] == [0, 0], outputs
        assert_consistent(store, name, [tmp_path / f"{number}-{index}" / "push" for index in range(2)], mount)


def assert_consistent(store: Store, registry: str, pushes: list[Path], mount: Mount) -> None:
    """Check that one push published first, that the other was decided against its version, and that every version is whole.

    Either may get the lower number. A push that was too late for its first decision may leave a version that nobody uses.
    """
    decisions = sorted((decision(push) for push in pushes), key=lambda each: each["champion"])
    print(decisions)
    first, second = decisions
    assert (first["champion"], first["decision"]) == ("", "published")
    assert second["champion"] == first["version"]
    assert second["version"] != first["version"]
    names = {name for name in store.names(f"{registry}/") if not name.endswith("/")}  # gcsfuse has an object for a folder
    versions = {name.split("/")[2] for name in names if name.startswith(f"{registry}/versions/v")}
    assert versions >= {each["version"] for each in decisions if each["decision"] == "published"}
    for version in versions:
        read_manifest(mount.folder / registry / "versions" / version, "version")
    pointers = [name for name in names if name.startswith(f"{registry}/champion/")]
    assert len(pointers) == sum(each["decision"] == "published" for each in decisions)
    assert not [name for name in names if name.endswith(".tmp")]


def decision(push: Path) -> dict[str, Any]:
    """Return what a push artifact says about its decision."""
    found: dict[str, Any] = json.loads((push / "decision.json").read_bytes())
    return found
