"""What an operator does with a registry, in each kind of store."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from components.common.errors import ArtifactError, ConfigError, ConflictError, PipelineError
from components.registry import maintenance
from components.registry.registry import Registry
from pipeline.cli import app
from tests.support.push_bench import Bench


def command(bench: Bench, *words: str) -> str:
    done = CliRunner().invoke(app, ["registry", *words, "--registry", bench.registry])
    assert done.exit_code == 0, done.output
    return done.output


def begin(bench: Bench, version: str) -> None:
    """Leave what a push leaves that is killed while it writes a version."""
    bench.store.write(f"versions/{version}/claim.json", [b'{"at": "2999-01-01T00:00:00+00:00", "by": "x"}'])
    bench.store.write(f"versions/{version}/scores.json", [b"{}"])


class TestRollback:
    def test_it_returns_to_the_previous_version_and_is_recorded(self, three: Bench) -> None:
        assert command(three, "rollback") == "v0002 is in service; it replaces v0003.\n"
        assert three.serves() == "v0002"
        pointers = [json.loads(three.store.read(name)) for name in sorted(three.store.files("champion"))]
        assert [(pointer["version"], pointer["previous"], pointer["why"]) for pointer in pointers] == [
            ("v0001", "", "push"),
            ("v0002", "v0001", "push"),
            ("v0003", "v0002", "push"),
            ("v0002", "v0003", "rollback"),
        ]
        assert command(three, "rollback") == "v0003 is in service; it replaces v0002.\n", "a second rollback undoes the first"

    def test_to_a_named_version(self, three: Bench) -> None:
        assert command(three, "rollback", "v0001") == "v0001 is in service; it replaces v0003.\n"
        assert three.serves() == "v0001"

    def test_a_push_of_a_model_that_was_rolled_back_changes_nothing(self, bench: Bench) -> None:
        bench.push(bench.candidate(kid=0.06))
        better = bench.candidate(kid=0.04)
        bench.push(better)
        maintenance.rollback(bench.registry)
        again = bench.push(better)
        assert (again.decision, again.reason) == ("unchanged", "v0002 is already published; v0001 has replaced it.")
        assert bench.serves() == "v0001"
        assert bench.push(bench.candidate(kid=0.05)).version == "v0003", "compared with v0001, and a new number"

    @pytest.mark.parametrize("damage", [b"{", b'{"version": "v0009"}'])
    def test_it_repairs_a_broken_pointer(self, three: Bench, damage: bytes) -> None:
        three.store.write("champion/000003.json", [damage])
        with pytest.raises(ArtifactError, match="Point to a complete version with wgan-pipeline registry rollback VERSION"):
            maintenance.rollback(three.registry)
        maintenance.rollback(three.registry, "v0003")
        assert three.serves() == "v0003"

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
        three.store.delete("versions/v0001/saved_model/saved_model.pb")
        with pytest.raises(ArtifactError, match=r"saved_model\.pb is missing"):
            maintenance.rollback(three.registry, "v0001")
        assert three.serves() == "v0003"

    def test_error_without_a_previous_version(self, bench: Bench) -> None:
        bench.push(bench.candidate())
        with pytest.raises(ConfigError, match="No version was in service before this one"):
            maintenance.rollback(bench.registry)

    def test_after_another_change_it_changes_nothing(self, three: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another process removes the version after it was found and checked."""
        original = Registry.set_champion

        def meanwhile(*arguments: Any) -> Any:
            monkeypatch.setattr(Registry, "set_champion", original)
            assert maintenance.retain(three.registry, 1) == ["v0001"]
            return original(*arguments)

        monkeypatch.setattr(Registry, "set_champion", meanwhile)
        with pytest.raises(ConflictError, match=r"moved the champion pointer in .* at the same time; its change stands"):
            maintenance.rollback(three.registry, "v0001")
        assert three.serves() == "v0003", "not v0001, which is gone"


class TestRetain:
    def test_the_champion_and_the_previous_version_always_stay(self, three: Bench) -> None:
        maintenance.rollback(three.registry, "v0001")  # before it: v0003
        assert command(three, "retain", "--keep", "1", "--dry-run") == "Would remove v0002.\n"
        assert three.versions() == ["v0001", "v0002", "v0003"]
        assert command(three, "retain", "--keep", "1") == "Removed v0002.\n"
        assert three.versions() == ["v0001", "v0003"]
        assert command(three, "retain", "--keep", "1") == "There is nothing to remove.\n"
        maintenance.rollback(three.registry)
        assert three.serves() == "v0003"

    def test_the_newest_stay(self, three: Bench) -> None:
        assert maintenance.retain(three.registry, 3) == []
        assert maintenance.retain(three.registry, 2) == ["v0001"]

    def test_a_pointer_without_a_previous_version(self, three: Bench) -> None:
        """As a rollback that repaired a broken pointer leaves it."""
        three.edit("champion/000003.json", previous="")
        assert maintenance.retain(three.registry, 1) == ["v0001"]

    def test_a_version_that_is_being_removed_does_not_exist(self, three: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither while its files are still there, nor after the next push; the next removal ends the work."""
        with monkeypatch.context() as patch:
            patch.setattr(type(three.store), "delete", lambda *_: 1 / 0)  # killed before the first file is removed
            with pytest.raises(ZeroDivisionError):
                maintenance.retain(three.registry, 1)
        assert three.versions() == ["v0001", "v0002", "v0003"]
        for _ in range(2):
            assert [each.name for each in maintenance.list_versions(three.registry)][-2:] == ["v0003", "v0002"]
            with pytest.raises(ConfigError, match=r"There is no version 'v0001' in .*; available: v0002, v0003"):
                maintenance.rollback(three.registry, "v0001")
            three.push(three.candidate(kid=0.01))
        assert maintenance.retain(three.registry, 3) == []
        assert three.versions() == ["v0002", "v0003", "v0004"]

    def test_error_for_keeping_none(self, three: Bench) -> None:
        with pytest.raises(ConfigError, match="--keep 0 would remove the newest version"):
            maintenance.retain(three.registry, 0)

    def test_nothing_is_removed_if_the_pointer_is_broken(self, three: Bench) -> None:
        three.store.write("champion/000003.json", [b"{"])
        with pytest.raises(ArtifactError, match="is broken"):
            maintenance.retain(three.registry, 1)
        assert three.versions() == ["v0001", "v0002", "v0003"]

    def test_nothing_is_removed_if_nothing_is_in_service(self, three: Bench) -> None:
        three.store.remove("champion")
        with pytest.raises(ArtifactError, match=r"Nothing is in service in .*\. Choose a version first"):
            maintenance.retain(three.registry, 1)
        assert maintenance.rollback(three.registry, "v0001").version == three.serves() == "v0001"

    def test_unfinished_versions_are_removed_after_a_day(self, three: Bench) -> None:
        begin(three, "v0004")
        three.push(three.candidate(kid=0.01))
        begin(three, "v0006")
        assert three.serves() == "v0005"
        assert [each.name for each in maintenance.list_versions(three.registry) if "no manifest.json" in each.fault] == [
            "v0006",
            "v0004",
        ]
        assert maintenance.retain(three.registry, 9) == [], "they may be in progress"
        three.edit("versions/v0004/claim.json", at="2026-01-01T00:00:00+00:00")
        three.store.write("versions/v0006/claim.json", [b"not a claim"])
        assert maintenance.retain(three.registry, 9) == ["v0004"], "the highest number stays, so that none is used twice"
        assert three.push(three.candidate(kid=0.0), confidence=0.5).version == "v0007"
        assert maintenance.retain(three.registry, 9) == ["v0006"]


class TestListAndShow:
    def test_newest_first_with_scores(self, three: Bench) -> None:
        lines = command(three, "list").splitlines()
        assert lines[0].split() == ["version", "in", "service", "published", "FID", "KID", "Coverage"]
        assert [line.split()[0] for line in lines[1:]] == ["v0003", "v0002", "v0001"]
        assert lines[1].split()[1] == "champion"
        assert lines[2].split()[1] == "previous"
        assert lines[1].split()[-5:] == ["2.000", "0.0200", "±", "0.0060", "0.600"]

    def test_damaged_versions_are_listed_with_the_reason(self, three: Bench) -> None:
        three.store.delete("versions/v0001/manifest.json")
        three.store.delete("versions/v0002/scores.json")
        found = {version.name: version.fault for version in maintenance.list_versions(three.registry)}
        assert found["v0003"] == ""
        assert found["v0001"].startswith(f"{three.registry}/versions/v0001 has no manifest.json")
        assert found["v0002"].startswith(f"{three.registry}/versions/v0002/scores.json cannot be read: No such file")
        assert "damaged: " in command(three, "list")

    def test_show_checks_every_file(self, three: Bench) -> None:
        about = json.loads(command(three, "show"))
        assert (about["version"], about["in_service"], about["scores"]["kid"]) == ("v0003", "champion", 0.02)
        assert about["path"] == f"{three.registry}/versions/v0003"
        assert json.loads(command(three, "show", "v0001"))["scores"]["kid"] == 0.06
        three.store.write("versions/v0001/model_card.md", [b"another"])
        with pytest.raises(ArtifactError, match=r"model_card\.md does not match its digest") as caught:
            maintenance.show(three.registry, "v0001")
        assert f"{three.registry}/versions/v0001 is damaged" in str(caught.value)

    def test_a_registry_of_which_nothing_was_published(self, bench: Bench) -> None:
        bench.push(bench.candidate(memorization=0.4))
        assert command(bench, "list") == f"No versions in {bench.registry} yet: wgan-pipeline run\n"
        with pytest.raises(ConfigError, match="Nothing was published into"):
            maintenance.show(bench.registry)


@pytest.mark.parametrize(
    "operation", [maintenance.rollback, maintenance.list_versions, maintenance.show, lambda place: maintenance.retain(place, 1)]
)
def test_error_without_a_registry(location: str, operation: Callable[[str], object]) -> None:
    with pytest.raises(ConfigError, match="There is no registry in"):
        operation(location)


@pytest.mark.parametrize("url", ["http://example.org/models", "az://bucket/models", "simplecache::gs://bucket/models"])
def test_a_url_without_conditional_writes_is_refused(url: str) -> None:
    with pytest.raises(PipelineError, match=r"cannot hold a registry: .*:// cannot create a file on the condition"):
        maintenance.list_versions(url)
