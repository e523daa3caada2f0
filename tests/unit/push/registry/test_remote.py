"""A registry at a URL does what one in a folder does: the real client for gs://, with a local server."""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner

from components.common.errors import ArtifactError, ConfigError, PipelineError
from components.push.registry import maintenance, publish
from components.push.registry.registry import ConflictError, read_champion
from components.push.registry.remote import local_copy
from components.push.run import PushSummary
from pipeline.cli import app
from tests.support.push_bench import Bench
from tests.support.servers.bucket_server import bucket_served

URL = "gs://bucket/models"


class Faults:
    """Faults of the server: statuses to answer, by method and part of the path, and answers to lose."""

    def __init__(self) -> None:
        self.statuses: list[tuple[str, str, int]] = []
        self.lost: list[str] = []

    def fault(self, method: str, path: str) -> int:
        for planned in self.statuses:
            if method == planned[0] and planned[1] in path:
                self.statuses.remove(planned)
                return planned[2]
        return 0

    def lose_answer(self, name: str) -> bool:
        for part in self.lost:
            if part in name:
                self.lost.remove(part)
                return True
        return False


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def bucket(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    with bucket_served(faults.fault, faults.lose_answer) as (address, objects, _):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)  # gcsfs then uses this server, without an account
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        yield objects
    fsspec.get_filesystem_class("gs").clear_instance_cache()


@pytest.fixture
def memory() -> Iterator[dict[str, Any]]:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield filesystem.store
    filesystem.store.clear()


def command(*words: str) -> str:
    done = CliRunner().invoke(app, ["registry", *words, "--registry", URL])
    assert done.exit_code == 0, done.output
    return done.output


def champion(url: str = URL) -> str:
    """Return the version in service, after checking every file."""
    with local_copy(url, versions=["champion"]) as folder:
        found = read_champion(folder)
    return found.version if found else ""


def test_a_url_does_what_a_folder_does(bench: Bench, bucket: dict[str, bytes]) -> None:
    """Three models, two published, one kept out; list, show, rollback, retain, and a decision that is remembered."""
    first = bench.push(bench.candidate(kid=0.06), registry=URL)
    assert (first.decision, first.version, first.uri) == ("published", "v0001", f"{URL}/versions/v0001")
    better, worse = bench.candidate(kid=0.04), bench.candidate(kid=0.07)
    assert bench.push(better, registry=f"{URL}/").version == "v0002"
    kept = bench.push(worse, registry=URL)
    assert (kept.decision, kept.champion, kept.uri) == ("kept", "v0002", "")
    before = dict(bucket)
    assert bench.push(worse, registry=URL).reason == f"Already decided: {kept.reason}"
    assert bench.push(better, registry=URL).reason == "v0002 is already published."
    assert bucket == before
    assert [line.split()[:2] for line in command("list").splitlines()[1:]] == [["v0002", "champion"], ["v0001", "previous"]]
    shown = json.loads(command("show"))
    assert (shown["version"], shown["path"], shown["scores"]["kid"]) == ("v0002", f"{URL}/versions/v0002", 0.04)
    assert command("rollback") == "v0001 is in service; it replaces v0002.\n"
    assert champion() == "v0001"
    assert bench.push(bench.candidate(kid=0.05), registry=URL).version == "v0003"
    assert command("retain", "--keep", "1", "--dry-run") == "Would remove v0002.\n"
    assert command("retain", "--keep", "1") == "Removed v0002.\n"
    assert not [name for name in bucket if "v0002" in name]
    assert champion() == "v0003"
    pointers = [json.loads(bucket[name]) for name in sorted(bucket) if name.startswith("models/champion/")]
    assert [pointer["version"] for pointer in pointers] == ["v0001", "v0002", "v0001", "v0003", "v0003"]
    moves = [json.loads(bucket[name])["why"] for name in sorted(bucket) if name.startswith("models/moves/")]
    assert moves == ["push", "push", "rollback", "push"]


def test_images_of_the_champion_and_of_a_version(bench: Bench, bucket: dict[str, bytes], tmp_path: Path) -> None:
    from components.generator.generator import find_saved_model
    from pipeline.commands import generate

    with (
        pytest.raises(ConfigError, match=r"Nothing was published to gs://bucket/models yet\."),
        generate.generator_folder(URL),
    ):
        pass
    for kid in (0.06, 0.04):
        bench.push(bench.candidate(kid=kid), registry=URL)
    for location, version in ((URL, "v0002"), (f"{URL}/versions/v0001", "v0001")):
        with generate.generator_folder(location) as folder:
            assert find_saved_model(folder).is_dir()
            assert folder.name == version
    with pytest.raises(ConfigError, match=r"There is no version 'v0009' in gs://bucket/models; available: v0001, v0002"):
        generate.generator_folder(f"{URL}/versions/v0009").__enter__()


class TestInterruption:
    """A push that dies before or after any write leaves a complete champion, and the next push continues."""

    def test_the_champion_is_complete(self, bench: Bench, memory: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        url = "memory://models"
        bench.push(bench.candidate(), registry=url)
        inputs = bench.candidate(kid=0.01)
        untouched = {name: file.getvalue() for name, file in memory.items()}
        served = []
        for moment in range(1, 100):
            restore(memory, untouched)
            with monkeypatch.context() as patch:
                reached = dies_at(moment, patch, lambda: bench.push(inputs, registry=url))
            if not reached:
                break
            served.append(champion(url))
            summary = bench.push(inputs, registry=url)
            assert summary.version == champion(url), f"moment {moment}"
            assert maintenance.retain(url, 5) == [], "a version that was started a moment ago may still be in progress"
        turn = served.index(served[-1])
        assert served[0] == "v0001"
        assert set(served[:turn]) == {"v0001"}
        assert len(set(served[turn:])) == 1
        assert turn >= 12, "claim, files and manifest of the version, the pointer"
        assert len(served) - turn >= 4, "the move and the decision come after the pointer"

    def test_unfinished_versions_are_removed_after_a_day(
        self, bench: Bench, memory: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = "memory://models"
        bench.push(bench.candidate(), registry=url)
        with monkeypatch.context() as patch:
            assert dies_at(5, patch, lambda: bench.push(bench.candidate(kid=0.01), registry=url))
        assert [each.fault for each in maintenance.list_versions(url)] == [
            "memory://models/versions/v0002 has no manifest.json: it is not a finished artifact",
            "",
        ]
        assert bench.push(bench.candidate(kid=0.01), registry=url).version == "v0003"
        assert maintenance.retain(url, 5) == []
        filesystem = fsspec.filesystem("memory")
        filesystem.pipe_file("/models/versions/v0002/claim.json", b'{"at": "2026-01-01T00:00:00+00:00", "by": "x"}')
        assert maintenance.retain(url, 5) == ["v0002"]
        assert not [name for name in memory if "v0002" in name]
        assert champion(url) == "v0003"


def restore(store: dict[str, Any], contents: dict[str, bytes]) -> None:
    store.clear()
    for name, content in contents.items():
        fsspec.filesystem("memory").pipe_file(name, content)


def dies_at(moment: int, patch: pytest.MonkeyPatch, work: Callable[[], Any]) -> bool:
    """Work until the n-th moment (before or after a write); return whether it got that far."""
    moments = iter(range(1, 10_000))
    kind = fsspec.get_filesystem_class("memory")

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(moments) == moment:
                raise KeyboardInterrupt
            result = original(*arguments, **named)
            if next(moments) == moment:
                raise KeyboardInterrupt
            return result

        return call

    patch.setattr(kind, "pipe_file", dying(kind.pipe_file))
    try:
        work()
    except KeyboardInterrupt:
        return True
    return False


class TestConcurrentChanges:
    def test_one_push_is_published_and_the_other_is_compared_with_it(
        self, bench: Bench, bucket: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Both have read the empty registry before either writes."""
        candidates = [bench.candidate(kid=0.06), bench.candidate(kid=0.06)]
        summaries: list[PushSummary] = []
        met = threading.Barrier(2)
        turns = threading.local()

        def wait(*_: Any) -> None:
            if not getattr(turns, "over", False):
                turns.over = True
                met.wait(60)

        monkeypatch.setattr(publish, "check_loads", wait)
        threads = [
            threading.Thread(
                target=lambda i=i: summaries.append(bench.push(candidates[i], out=bench.root / f"push-{i}", registry=URL))
            )
            for i in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        won, lost = sorted(summaries, key=lambda summary: summary.decision, reverse=True)
        assert (won.decision, won.champion) == ("published", "")
        assert (lost.decision, lost.champion) == ("kept", won.version)
        assert champion() == won.version
        output = capsys.readouterr().out
        assert re.search(
            r"Another process (took the version number v0001|moved the champion pointer) in gs://bucket/models", output
        )
        assert "Deciding again." in output

    def test_a_rollback_after_another_change_changes_nothing(
        self, bench: Bench, bucket: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for kid in (0.06, 0.04, 0.02):
            bench.push(bench.candidate(kid=kid), registry=URL)
        original = maintenance.set_champion

        def meanwhile(*arguments: Any) -> Any:
            monkeypatch.setattr(maintenance, "set_champion", original)
            assert maintenance.retain(URL, 1) == ["v0001"]
            return original(*arguments)

        monkeypatch.setattr(maintenance, "set_champion", meanwhile)
        with pytest.raises(ConflictError, match=r"moved the champion pointer in gs://bucket/models at the same time"):
            maintenance.rollback(URL, "v0001")
        assert champion() == "v0003", "not v0001, which is gone"

    def test_nothing_is_removed_if_nothing_is_in_service(self, bench: Bench, bucket: dict[str, bytes]) -> None:
        for kid in (0.06, 0.04):
            bench.push(bench.candidate(kid=kid), registry=URL)
        for name in [name for name in bucket if "/champion/" in name]:
            del bucket[name]
        with pytest.raises(ArtifactError, match=r"Nothing is in service in gs://bucket/models\. Choose a version"):
            maintenance.retain(URL, 1)
        assert maintenance.rollback(URL, "v0001").version == champion() == "v0001"


class TestFaults:
    def test_a_lost_answer_is_not_a_conflict(self, bench: Bench, bucket: dict[str, bytes], faults: Faults) -> None:
        """The client repeats the request and finds the object that its first request created."""
        faults.lost = ["claim.json", "champion/000001"]
        assert bench.push(bench.candidate(), registry=URL).version == "v0001"
        assert faults.lost == []
        assert champion() == "v0001"

    @pytest.mark.parametrize("status", [429, 503])
    def test_temporary_failures_are_retried(self, bench: Bench, bucket: dict[str, bytes], faults: Faults, status: int) -> None:
        faults.statuses = [("GET", "/o", status), ("POST", "upload", status)]
        assert bench.push(bench.candidate(), registry=URL).version == "v0001"
        assert faults.statuses == []

    @pytest.mark.parametrize(
        ("method", "part", "status", "sentence"),
        [
            ("GET", "/o", 401, r"Cannot list gs://bucket/models/: .*injected by the test"),
            ("GET", "/o", 403, r"Cannot list gs://bucket/models/: Forbidden"),
            ("POST", "upload", 403, r"Cannot write gs://bucket/models/versions/v0002/claim\.json: Forbidden"),
            ("DELETE", "", 403, r"Cannot remove gs://bucket/models/versions/v0001/manifest\.json: Forbidden"),
        ],
    )
    def test_error_for_a_permanent_failure_and_the_champion_stays(
        self, bench: Bench, bucket: dict[str, bytes], faults: Faults, method: str, part: str, status: int, sentence: str
    ) -> None:
        kids = (0.06, 0.04, 0.02) if method == "DELETE" else (0.06,)
        for kid in kids:
            bench.push(bench.candidate(kid=kid), registry=URL)
        before = champion()
        faults.statuses = [(method, part, status)] * 10
        push = functools.partial(bench.push, bench.candidate(kid=0.01), registry=URL)
        work = functools.partial(maintenance.retain, URL, 1) if method == "DELETE" else push
        with pytest.raises(ArtifactError, match=sentence) as caught:
            work()
        assert "Reading a registry requires permission to list and read objects; a push also to create" in str(caught.value)
        faults.statuses = []
        assert champion() == before

    def test_error_for_an_incomplete_upload(
        self, bench: Bench, memory: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kind = fsspec.get_filesystem_class("memory")
        original = kind.pipe_file

        def short(self: Any, path: str, value: bytes, **named: Any) -> None:
            original(self, path, value[:-1] if path.endswith("variables.index") else value, **named)

        monkeypatch.setattr(kind, "pipe_file", short)
        with pytest.raises(ArtifactError, match=r"variables\.index has 6 bytes after its upload instead of 7\. Run push again"):
            bench.push(bench.candidate(), registry="memory://models")
        assert champion("memory://models") == ""


class TestDamage:
    @pytest.mark.parametrize(
        ("damage", "sentence"),
        [
            (lambda b: b.update({"models/champion/000001.json": b"{"}), "is broken: it cannot be read"),
            (lambda b: b.pop("models/versions/v0001/manifest.json"), "its version v0001 is damaged"),
            (lambda b: b.update({"models/versions/v0001/scores.json": b"{}"}), "does not match its digest"),
            (lambda b: b.update({"models/../elsewhere.json": b"{}"}), r"holds an object named '\.\./elsewhere\.json'"),
        ],
    )
    def test_error_for_a_damaged_registry_names_the_url(
        self, bench: Bench, bucket: dict[str, bytes], damage: Callable[[dict[str, bytes]], object], sentence: str
    ) -> None:
        bench.push(bench.candidate(), registry=URL)
        damage(bucket)
        before = dict(bucket)
        with pytest.raises(ArtifactError, match=sentence) as caught:
            bench.push(bench.candidate(kid=0.01), registry=URL)
        assert URL in str(caught.value)
        assert "/tmp" not in str(caught.value)
        assert bucket == before

    def test_a_champion_with_images_of_another_size_is_refused_before_a_run(
        self, bench: Bench, bucket: dict[str, bytes], tmp_path: Path
    ) -> None:
        from pipeline.config import load_config, resolve_paths
        from pipeline.targets.local.run import check_before_running

        bench.push(bench.candidate(), registry=URL)
        words = [f"run.dir={tmp_path / 'runs'}", f"push.registry={URL}"]
        config = resolve_paths(load_config(None, [*words, "ingest.image_size=28"]))
        assert config.push.registry == URL
        with pytest.raises(ConfigError, match=r"Champion v0001 in gs://bucket/models makes 8×8×1 images, this run 28×28×1"):
            check_before_running(config)

    @pytest.mark.parametrize("url", ["http://example.org/models", "s3://bucket/models", "sftp://host/models"])
    def test_a_url_without_conditional_writes_is_refused(self, url: str) -> None:
        with pytest.raises(PipelineError, match="cannot hold a registry: concurrent pushes cannot be detected on"):
            maintenance.list_versions(url)

    def test_error_for_an_empty_url(self, bucket: dict[str, bytes]) -> None:
        with pytest.raises(ConfigError, match=r"There is no registry in gs://bucket/models\."):
            maintenance.rollback(URL)
