"""Maintenance of a registry, and its state after a push is killed and after concurrent pushes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.common import artifacts
from components.common.errors import ArtifactError, ConfigError
from components.push.gate import rescoring
from components.push.gate.evidence import Evidence
from components.push.gate.gate import RescoredChampion
from components.push.registry import maintenance, registry
from components.push.run import PushSummary
from pipeline.cli import app
from tests.support.push_bench import SCORES, Bench


@pytest.fixture
def three(bench: Bench) -> Bench:
    for kid in (0.06, 0.04, 0.02):
        assert bench.push(bench.candidate(kid=kid)).decision == "published"
    return bench


def champion(bench: Bench) -> str:
    found = registry.read_champion(bench.registry)
    assert found is not None
    return found.version


def names(bench: Bench) -> list[str]:
    return sorted(folder.name for folder in (bench.registry / "versions").iterdir())


def command(bench: Bench, *words: str) -> str:
    done = CliRunner().invoke(app, ["registry", *words, "--registry", str(bench.registry)])
    assert done.exit_code == 0, done.output
    return done.output


class TestRollback:
    def test_it_returns_to_the_previous_version_and_is_recorded(self, three: Bench) -> None:
        assert command(three, "rollback") == "v0002 is in service; it replaces v0003.\n"
        assert champion(three) == "v0002"
        moves = [json.loads(file.read_bytes()) for file in sorted((three.registry / "moves").iterdir())]
        assert [(move["version"], move["previous"], move["why"]) for move in moves] == [
            ("v0001", "", "push"),
            ("v0002", "v0001", "push"),
            ("v0003", "v0002", "push"),
            ("v0002", "v0003", "rollback"),
        ]
        assert command(three, "rollback") == "v0003 is in service; it replaces v0002.\n", "a second rollback undoes the first"

    def test_to_a_named_version(self, three: Bench) -> None:
        assert command(three, "rollback", "v0001") == "v0001 is in service; it replaces v0003.\n"
        assert champion(three) == "v0001"

    def test_a_push_of_a_model_that_was_rolled_back_changes_nothing(self, bench: Bench) -> None:
        bench.push(bench.candidate(kid=0.06))
        better = bench.candidate(kid=0.04)
        bench.push(better)
        maintenance.rollback(bench.registry)
        again = bench.push(better)
        assert (again.decision, again.reason) == ("unchanged", "v0002 is already published; v0001 has replaced it.")
        assert champion(bench) == "v0001"
        assert bench.push(bench.candidate(kid=0.05)).version == "v0003", "compared with v0001, and a new number"

    @pytest.mark.parametrize("damage", ["{", '{"version": "v0009"}'])
    def test_it_repairs_a_broken_pointer(self, three: Bench, damage: str) -> None:
        (three.registry / "champion.json").write_text(damage)
        with pytest.raises(ArtifactError, match="Point to a complete version with wgan-pipeline registry rollback VERSION"):
            maintenance.rollback(three.registry)
        maintenance.rollback(three.registry, "v0003")
        assert champion(three) == "v0003"

    @pytest.mark.parametrize(
        ("version", "sentence"),
        [
            ("v0009", r"There is no version 'v0009' in .*; available: v0001, v0002, v0003\. Name one of them"),
            ("../v0001", r"There is no version '\.\./v0001'"),
            ("v0003", r"v0003 is in service already"),
        ],
    )
    def test_error_for_a_version_that_cannot_be_put_into_service(self, three: Bench, version: str, sentence: str) -> None:
        before = three.files()
        with pytest.raises(ConfigError, match=sentence):
            maintenance.rollback(three.registry, version)
        assert three.files() == before

    def test_a_damaged_version_is_not_put_into_service(self, three: Bench) -> None:
        (three.registry / "versions/v0001/saved_model/saved_model.pb").unlink()
        with pytest.raises(ArtifactError, match=r"saved_model\.pb is missing"):
            maintenance.rollback(three.registry, "v0001")
        assert champion(three) == "v0003"

    def test_error_without_a_previous_version(self, bench: Bench) -> None:
        bench.push(bench.candidate())
        with pytest.raises(ConfigError, match="No version was in service before this one"):
            maintenance.rollback(bench.registry)

    @pytest.mark.parametrize(
        "operation",
        [maintenance.rollback, maintenance.list_versions, maintenance.show, lambda folder: maintenance.retain(folder, 1)],
    )
    def test_error_without_a_registry(self, tmp_path: Path, operation: Callable[[Path], object]) -> None:
        with pytest.raises(ConfigError, match="There is no registry in"):
            operation(tmp_path)


class TestRetain:
    def test_the_champion_and_the_previous_version_always_stay(self, three: Bench) -> None:
        maintenance.rollback(three.registry, "v0001")  # before it: v0003
        assert command(three, "retain", "--keep", "1", "--dry-run") == "Would remove v0002.\n"
        assert names(three) == ["v0001", "v0002", "v0003"]
        assert command(three, "retain", "--keep", "1") == "Removed v0002.\n"
        assert names(three) == ["v0001", "v0003"]
        assert command(three, "retain", "--keep", "1") == "There is nothing to remove.\n"
        maintenance.rollback(three.registry)
        assert champion(three) == "v0003"

    def test_the_newest_stay(self, three: Bench) -> None:
        assert maintenance.retain(three.registry, 3) == []
        assert maintenance.retain(three.registry, 2) == ["v0001"]

    def test_a_pointer_without_a_previous_version(self, three: Bench) -> None:
        """As an earlier release wrote it."""
        file = three.registry / "champion.json"
        pointer = json.loads(file.read_bytes())
        del pointer["previous"]
        file.write_text(json.dumps(pointer))
        assert maintenance.retain(three.registry, 1) == ["v0001"]

    def test_error_for_keeping_none(self, three: Bench) -> None:
        with pytest.raises(ConfigError, match="--keep 0 would remove the newest version"):
            maintenance.retain(three.registry, 0)

    def test_nothing_is_removed_if_the_pointer_is_broken(self, three: Bench) -> None:
        (three.registry / "champion.json").write_text("{")
        with pytest.raises(ArtifactError, match="is broken"):
            maintenance.retain(three.registry, 1)
        assert names(three) == ["v0001", "v0002", "v0003"]


class TestListAndShow:
    def test_newest_first_with_scores(self, three: Bench) -> None:
        lines = command(three, "list").splitlines()
        assert lines[0].split() == ["version", "in", "service", "published", "FID", "KID", "Coverage"]
        assert [line.split()[0] for line in lines[1:]] == ["v0003", "v0002", "v0001"]
        assert lines[1].split()[1] == "champion"
        assert lines[2].split()[1] == "previous"
        assert lines[1].split()[-5:] == ["2.000", "0.0200", "±", "0.0060", "0.600"]

    def test_damaged_versions_are_listed_with_the_reason(self, three: Bench) -> None:
        (three.registry / "versions/v0001/manifest.json").unlink()
        shutil.rmtree(three.registry / "versions/v0002/saved_model")
        (three.registry / "versions/v0002/scores.json").unlink()
        found = {version.name: version.fault for version in maintenance.list_versions(three.registry)}
        assert found["v0003"] == ""
        assert "v0001 has no manifest.json" in found["v0001"]
        assert "No such file" in found["v0002"]
        assert "damaged: " in command(three, "list")

    def test_show_checks_every_file(self, three: Bench) -> None:
        about = json.loads(command(three, "show"))
        assert (about["version"], about["in_service"], about["scores"]["kid"]) == ("v0003", "champion", 0.02)
        assert json.loads(command(three, "show", "v0001"))["scores"]["kid"] == 0.06
        (three.registry / "versions/v0001/model_card.md").write_text("another")
        with pytest.raises(ArtifactError, match=r"model_card\.md does not match its digest"):
            maintenance.show(three.registry, "v0001")

    def test_an_empty_registry(self, bench: Bench) -> None:
        (bench.registry / "versions").mkdir(parents=True)
        assert command(bench, "list") == f"No versions in {bench.registry} yet: wgan-pipeline run\n"
        with pytest.raises(ConfigError, match="Nothing was published into"):
            maintenance.show(bench.registry)


class TestKilled:
    """kill -9 before and after every rename; nothing becomes visible at any other moment."""

    def test_the_champion_is_complete_and_the_next_push_continues(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        better = Evidence(0.02, 1.0, 0.01, 0.03, 1000)
        rescored = RescoredChampion("v0001", SCORES, better)
        monkeypatch.setattr(rescoring, "rescore_champion", lambda *_: rescored)  # no BLAS in a forked process
        bench.push(bench.candidate())
        inputs = bench.candidate(kid=0.01)
        untouched = bench.root / "untouched"
        shutil.copytree(bench.registry, untouched)
        served: list[str] = []
        for moment in range(1, 100):
            shutil.rmtree(bench.registry)
            shutil.copytree(untouched, bench.registry)
            if not killed(lambda: bench.push(inputs), monkeypatch, moment):
                break
            served.append(champion(bench))
            summary = bench.push(inputs)
            assert summary.version == champion(bench) == "v0002", f"moment {moment}"
            assert names(bench) == ["v0001", "v0002"], f"moment {moment}"
            assert not list(bench.registry.rglob(".*.tmp")), f"moment {moment}"
        turn = served.index("v0002")
        assert served == ["v0001"] * turn + ["v0002"] * (len(served) - turn)
        assert turn >= 10, "files of the version, its manifest, its folder, the pointer"
        assert len(served) - turn >= 4, "the move and the decision come after the pointer"


def killed(work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, moment: int) -> bool:
    """Run in a forked process that is killed at its n-th moment; return whether it got that far."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    moments = iter(range(1, 10_000))

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if next(moments) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*arguments)
            if next(moments) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    monkeypatch.setattr(artifacts.Path, "rename", dying(Path.rename))
    monkeypatch.setattr(artifacts.Path, "replace", dying(Path.replace))
    try:
        work()
    finally:
        os._exit(0)


class TestConcurrentPushes:
    def test_one_is_published_and_the_other_is_compared_with_it(self, bench: Bench) -> None:
        candidates = [bench.candidate(kid=0.06), bench.candidate(kid=0.06)]
        summaries: list[PushSummary] = []
        start = threading.Barrier(2)

        def push(index: int) -> None:
            start.wait(30)
            out = bench.root / f"push-{index}"
            summaries.append(bench.push(candidates[index], out=out))

        threads = [threading.Thread(target=push, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        won, lost = sorted(summaries, key=lambda summary: summary.decision, reverse=True)
        assert (won.decision, won.version, won.champion) == ("published", "v0001", "")
        assert (lost.decision, lost.champion) == ("kept", "v0001")
        assert "better than v0001's" in lost.reason
        assert names(bench) == ["v0001"]


def test_error_for_a_registry_that_cannot_be_used(bench: Bench) -> None:
    bench.push(bench.candidate())
    (bench.registry / "decisions").rename(bench.root / "decisions")
    # Not by file permissions: they do not stop root, who runs the tests in containers.
    (bench.registry / "decisions").write_text("not a folder")
    with pytest.raises(ArtifactError, match=r"decisions/.* cannot be read: .*Not a directory"):
        bench.push(bench.candidate(kid=0.01))
    shutil.rmtree(bench.registry / "versions")
    (bench.registry / "versions").write_text("not a folder")
    with pytest.raises(ArtifactError, match=r"it names 'v0001', which is not in"):
        bench.push(bench.candidate(kid=0.01))
