"""A registry in each kind of store: published, damaged, killed at any write, changed by several processes at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ArtifactError, ConfigError
from components.push import publish
from components.push.run import PushSummary
from components.registry import maintenance
from components.registry.registry import Registry, check_image_size
from tests.support.kills import killed_at
from tests.support.push_bench import Bench
from tests.support.stores import KINDS, MOUNT

AT_ONCE = [*(kind for kind in KINDS if kind != "memory"), MOUNT]  # fsspec's memory tests a condition and writes in two steps


@pytest.mark.parametrize("location", [*KINDS, MOUNT], indirect=True)
def test_two_models_are_published_and_one_is_kept_out(bench: Bench) -> None:
    first = bench.push(bench.candidate(kid=0.06))
    assert (first.decision, first.version, first.uri) == ("published", "v0001", f"{bench.registry}/versions/v0001")
    better, worse = bench.candidate(kid=0.04), bench.candidate(kid=0.07)
    assert bench.push(better, registry=f"{bench.registry}/").version == "v0002"
    kept = bench.push(worse)
    assert (kept.decision, kept.champion, kept.uri) == ("kept", "v0002", "")
    before = bench.files()
    assert bench.push(worse).reason == f"Already decided: {kept.reason}"
    assert bench.push(better).reason == "v0002 is already published."
    assert bench.files() == before
    pointers = [json.loads(before[name]) for name in sorted(before) if name.startswith("champion/")]
    assert [(pointer["version"], pointer["previous"]) for pointer in pointers] == [("v0001", ""), ("v0002", "v0001")]
    details = {name.partition("/")[2] for name in before if name.startswith("versions/v0002/")}
    assert {"v0002/claim.json", "v0002/manifest.json", "v0002/saved_model/saved_model.pb", "v0002/model_card.md"} < details


def test_images_of_the_champion_and_of_a_version(three: Bench) -> None:
    from components.generator.generator import find_saved_model
    from pipeline.commands import generate

    for place, version in ((three.registry, "v0003"), (f"{three.registry}/versions/v0001", "v0001")):
        with generate.generator_folder(place) as folder:
            assert find_saved_model(folder).is_dir()
            assert folder.name == version
    if "://" in three.registry:
        with pytest.raises(ConfigError, match=r"There is no version 'v0009' in .*; available: v0001, v0002"):
            generate.generator_folder(f"{three.registry}/versions/v0009").__enter__()
        with pytest.raises(ConfigError, match=r"Nothing was published to .*/nothing yet\."):
            generate.generator_folder(f"{three.registry}/nothing").__enter__()


class TestDamage:
    @pytest.mark.parametrize(
        ("damage", "sentence"),
        [
            (lambda b: b.store.write("champion/000001.json", [b"{"]), r"champion/000001\.json is broken: it cannot be read"),
            (lambda b: b.store.write("champion/000001.json", [b"{}"]), r"champion/000001\.json is broken: it cannot be read"),
            (lambda b: b.store.remove("versions/v0001"), "its version v0001 is damaged"),
            (lambda b: b.store.delete("versions/v0001/manifest.json"), "its version v0001 is damaged"),
            (
                lambda b: b.store.write("versions/v0001/saved_model/saved_model.pb", [b""]),
                r"/versions/v0001 is damaged: saved_model/saved_model\.pb does not match its digest",
            ),
            (lambda b: b.edit("champion/000001.json", version="../../elsewhere"), "it names '../../elsewhere'"),
            (lambda b: b.edit("champion/000001.json", digest="0" * 64), "v0001 has digest .*, 000000000000 was published"),
        ],
    )
    def test_error_for_a_broken_champion_and_nothing_changes(
        self, bench: Bench, damage: Callable[[Bench], object], sentence: str
    ) -> None:
        bench.push(bench.candidate())
        damage(bench)
        before = bench.files()
        with pytest.raises(ArtifactError, match=sentence) as caught:
            bench.push(bench.candidate(kid=0.01))
        assert "or use another push.registry." in str(caught.value)
        assert bench.registry in str(caught.value)
        assert bench.files() == before

    def test_error_for_an_unreadable_decision(self, bench: Bench) -> None:
        bench.push(bench.candidate())
        inputs = bench.candidate(kid=0.07)
        bench.push(inputs)
        for name in bench.store.files("decisions"):
            bench.store.write(name, [b"[]"])
        with pytest.raises(ArtifactError, match="Delete it and run again"):
            bench.push(inputs)

    @pytest.mark.parametrize("location", ["s3"], indirect=True)
    def test_error_for_an_object_outside_of_its_version(self, bench: Bench) -> None:
        bench.push(bench.candidate())
        bench.store._files.pipe_file(f"{bench.registry.partition('://')[2]}/versions/v0001/../../x", b"")  # type: ignore[union-attr]
        with pytest.raises(ArtifactError, match=r"holds an object named '\.\./\.\./x'"):
            bench.serves()

    def test_an_empty_pointer_is_one_of_a_killed_process(self, three: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a process leaves it that is killed on a mounted bucket; its number is used up."""
        monkeypatch.setattr("components.common.numbered.EMPTY_SECONDS", 0.05)
        three.store.write("champion/000004.json", [b""])
        assert three.serves() == "v0003"
        assert three.push(three.candidate(kid=0.01)).version == three.serves() == "v0004"
        assert "champion/000005.json" in three.store.files("champion")


@pytest.mark.parametrize("location", ["folder"], indirect=True)
def test_error_for_a_registry_that_is_a_file(bench: Bench) -> None:
    Path(bench.registry).write_text("not a folder")
    with pytest.raises(ArtifactError, match=r"Cannot write .*claim\.json.*: (Not a directory|File exists)"):
        bench.push(bench.candidate())


def test_a_champion_with_images_of_another_size_is_refused_before_a_run(bench: Bench, tmp_path: Path) -> None:
    from pipeline.config import load_config, resolve_paths
    from pipeline.targets.local.run import check_before_running

    bench.push(bench.candidate())
    words = [f"run.dir={tmp_path / 'runs'}", f"push.registry={bench.registry}"]
    config = resolve_paths(load_config(None, [*words, "ingest.image_size=28"]))
    assert config.push.registry == bench.registry
    with pytest.raises(ConfigError, match=rf"Champion v0001 in {bench.registry} makes 8×8×1 images, this run 28×28×1"):
        check_before_running(config)
    check_image_size(bench.champion(), bench.registry, 8, 1)


class TestKilled:
    """At each moment, the champion is the old one or the new one, and complete; the next push of the model ends the work.

    The next push has the same verdict, as on a platform that repeats the step.
    """

    def test_a_push(self, bench: Bench) -> None:
        bench.push(bench.candidate())
        served, untouched, number = [], bench.files(), 0
        inputs = bench.candidate(kid=0.01)
        verdict = bench.judge(inputs)
        for moment in range(1, 100):
            restore(bench, untouched)
            with killed_at(moment) as reached:
                bench.carry_out(inputs, verdict)
            served.append("new" if bench.serves() != "v0001" else "old")
            if not reached:
                break
            summary = bench.carry_out(inputs, verdict)
            assert summary.version == bench.serves() != "v0001", f"moment {moment}"
            number = max(number, int(summary.version[1:]))
            assert maintenance.retain(bench.registry, 5) == [], "a version that was started a moment ago may be in progress"
            incomplete = [each.name for each in maintenance.list_versions(bench.registry) if each.fault]
            assert set(bench.versions()) == {"v0001", summary.version, *incomplete}, f"moment {moment}"
        turn = served.index("new")
        assert served == ["old"] * turn + ["new"] * (len(served) - turn)
        assert number == 3, "a number that was claimed is not used again"
        assert turn >= 17, "before and after claim, files and manifest of the version, and before the pointer"
        assert len(served) - turn == 6, "after the pointer, before and after the decision and the push's manifest, and the end"

    def test_a_rollback_and_a_retention(self, three: Bench) -> None:
        untouched = three.files()
        for change in (lambda: maintenance.rollback(three.registry), lambda: maintenance.retain(three.registry, 1)):
            for moment in range(1, 100):
                restore(three, untouched)
                with killed_at(moment) as reached:
                    change()
                if not reached:
                    break
                assert three.serves() in ("v0002", "v0003")
                for each in maintenance.list_versions(three.registry):
                    if not each.fault:
                        maintenance.show(three.registry, each.name)  # what is listed is whole
            assert moment >= 3


def restore(bench: Bench, files: dict[str, bytes]) -> None:
    bench.store.remove()
    for name, content in files.items():
        bench.store.write(name, [content])


@pytest.mark.parametrize("location", AT_ONCE, indirect=True)
class TestConcurrentPushes:
    def test_one_is_published_and_the_others_are_compared_with_it(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """All have read the empty registry before any writes."""
        candidates = [bench.candidate(kid=0.06) for _ in range(3)]
        met, turns = threading.Barrier(3), threading.local()

        def wait(*_: Any) -> None:
            if not getattr(turns, "over", False):
                turns.over = True
                met.wait(60)

        monkeypatch.setattr(publish, "check_loads", wait)
        won, *lost = sorted(together(bench, candidates), key=lambda summary: summary.decision, reverse=True)
        assert (won.decision, won.champion) == ("published", "")
        assert {(each.decision, each.champion) for each in lost} == {("kept", won.version)}
        assert all("better than" in each.reason for each in lost)
        assert bench.serves() == won.version
        output = capsys.readouterr().out
        assert f"in {bench.registry} at the same time; its change stands. Looking again." in output
        assert f"the verdict compares with nothing, but {won.version} is in service: judging again" in output

    def test_better_and_better_models(self, bench: Bench) -> None:
        """Whatever the order, the best one is in service, each pointer was created once, and each version is whole."""
        bench.push(bench.candidate(kid=0.06))
        summaries = together(bench, [bench.candidate(kid=kid) for kid in (0.05, 0.03, 0.01)])
        published = [each for each in summaries if each.decision == "published"]
        champion = bench.champion()
        assert champion is not None
        assert champion.scores["kid"] == 0.01
        pointers = [json.loads(bench.store.read(name)) for name in sorted(bench.store.files("champion"))]
        assert sorted(each["version"] for each in pointers) == sorted(["v0001", *(each.version for each in published)])
        assert [each["previous"] for each in pointers] == ["", *(each["version"] for each in pointers[:-1])]
        for version in {each["version"] for each in pointers}:
            with Registry(bench.registry).open_version(version):
                pass


def together(bench: Bench, candidates: list[dict[str, Path]]) -> list[PushSummary]:
    """Push all candidates at once, each in a thread of its own."""
    summaries: list[PushSummary] = []
    start = threading.Barrier(len(candidates))

    def push(index: int) -> None:
        start.wait(30)
        summaries.append(bench.push(candidates[index], out=bench.root / f"push-{index}"))

    threads = [threading.Thread(target=push, args=(index,)) for index in range(len(candidates))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(summaries) == len(candidates)
    return summaries
