"""What registry, history and leases stand on: a file is created once, in each kind of store, and errors have a cure."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from components.common.errors import ArtifactError, ConflictError
from components.common.numbered import numbered, numbers_in, read_numbered, repeat_on_conflict
from components.common.store import Bucket, Folder, Store, check_creates, store_at
from components.common.stored_artifacts import open_artifact, store_artifact
from tests.support.datasets.tiny_artifacts import write_dataset
from tests.support.mount import mounted
from tests.support.servers.bucket_proxy import LOST, WRITES, Fault
from tests.support.servers.object_store import Store as ObjectStore
from tests.support.stores import KINDS, MOUNT, bucket, location, s3_served, servers

__all__ = ["bucket", "location", "servers"]

EVERYWHERE = [*KINDS, MOUNT]
AT_ONCE = [*(kind for kind in KINDS if kind != "memory"), MOUNT]  # fsspec's memory tests a condition and writes in two steps


@pytest.mark.parametrize("location", EVERYWHERE, indirect=True)
def test_a_file_is_created_once(location: str) -> None:
    store = store_at(location)
    assert numbers_in(store, "states") == []
    assert store.create(numbered("states", 1), b"first")
    assert not store.create(numbered("states", 1), b"second")
    assert store.create(numbered("states", 1_000_000), b"third")
    store.write("states/other.json", [b"not", b"hing"])
    assert numbers_in(store, "states") == [1, 1_000_000]
    assert read_numbered(store, "states") == {1: b"first", 1_000_000: b"third"}
    assert store.names() == {"states"}
    assert store.files() == {"states/000001.json": 5, "states/1000000.json": 5, "states/other.json": 7}
    store.delete("states/other.json")
    store.delete("states/other.json")
    with pytest.raises(FileNotFoundError):
        store.read("states/other.json")
    store.remove("states")
    store.remove("states")
    assert store.files() == {}


@pytest.mark.parametrize("location", EVERYWHERE, indirect=True)
def test_an_empty_file_does_not_count(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.common.numbered.EMPTY_SECONDS", 0.05)
    store = store_at(location)
    assert store.create(numbered("states", 1), b"first")
    assert store.create(numbered("states", 2), b"")
    assert numbers_in(store, "states") == [1, 2]
    assert read_numbered(store, "states") == {1: b"first"}


def test_a_file_that_a_killed_process_was_writing_is_not_listed(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    store.write("states/x.json", [b"whole"])
    (tmp_path / "states" / ".x.json.0123abcd.tmp").write_bytes(b"ha")
    assert (store.names("states"), store.files()) == ({"x.json"}, {"states/x.json": 5})


@pytest.mark.parametrize("location", AT_ONCE, indirect=True)
def test_of_many_threads_one_creates(location: str) -> None:
    for round in range(5):
        won: list[int] = []
        start = threading.Barrier(6)

        def create(index: int, won: list[int] = won, start: threading.Barrier = start, round: int = round) -> None:
            store = store_at(location)
            start.wait(60)
            if store.create(numbered("states", round), f"of {index}".encode()):
                won.append(index)

        threads = [threading.Thread(target=create, args=(index,)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = won
        assert store_at(location).read(numbered("states", round)) == f"of {winner}".encode()


@pytest.mark.parametrize("location", ["folder", MOUNT], indirect=True)
def test_of_many_processes_one_creates(location: str) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        for round in range(5):
            won = pool.starmap(create_in_process, [(location, numbered("states", round), index) for index in range(12)])
            assert sum(won) == 1
            assert store_at(location).read(numbered("states", round)) == f"of {won.index(True)}".encode()


@pytest.mark.heavy
def test_two_machines_that_mount_a_bucket_create_in_turn(servers: Callable[[str], str], tmp_path: Path) -> None:
    """With gcsfuse's own caches, in which one may have that a file of the other does not exist."""
    servers("mount")
    with mounted(os.environ["STORAGE_EMULATOR_HOST"], tmp_path / "one") as one, contextlib.ExitStack() as stack:
        two = stack.enter_context(mounted(os.environ["STORAGE_EMULATOR_HOST"], tmp_path / "two"))
        stores = [store_at(f"{mount.folder}/turns") for mount in (one, two)]
        # gcsfuse remembers for some seconds also that a folder does not exist: repeat_on_conflict waits longer.
        assert stores[0].create(numbered("states", 1), b"1")
        for number in range(2, 9):
            mine, other = stores if number % 2 else reversed(stores)
            with pytest.raises(FileNotFoundError):
                other.read(numbered("states", number))
            assert mine.create(numbered("states", number), f"{number}".encode())
            assert numbers_in(other, "states")[-1] == number
            assert not other.create(numbered("states", number), b"late")
            assert read_numbered(other, "states") == {each: f"{each}".encode() for each in range(1, number + 1)}


def create_in_process(location: str, name: str, index: int) -> bool:
    return store_at(location).create(name, f"of {index}".encode())


def test_an_artifact_is_read_where_it_is_or_from_a_copy(location: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    store = store_at(location)
    manifest = store_artifact(store, "some/data", tmp_path / "data")
    with open_artifact(store, "some/data", "dataset") as folder:
        assert {file.name for file in folder.iterdir()} == {*manifest.files, "manifest.json"}
        assert folder.name == "data"
    damaged = min(manifest.files)
    store.write(f"other/{damaged}", [b"of another process"])
    with pytest.raises(ConflictError, match=rf"Another process wrote {location}/other/{damaged} at the same time"):
        store_artifact(store, "other", tmp_path / "data")
    store.write(f"some/data/{damaged}", [b""])
    with pytest.raises(ArtifactError, match=rf"{location}/some/data is damaged: {damaged} does not match its digest"):
        open_artifact(store, "some/data", "dataset").__enter__()
    with pytest.raises(ArtifactError, match=rf"{location}/nothing has no manifest\.json: it is not a finished artifact"):
        open_artifact(store, "nothing", "dataset").__enter__()


@pytest.mark.parametrize("kind", [Folder, Bucket])
def test_error_for_an_incomplete_upload(kind: type[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data")
    store = Folder(tmp_path / "store") if kind is Folder else Bucket(f"memory://{tmp_path.name}")
    original = kind.create
    monkeypatch.setattr(kind, "create", lambda self, name, content: original(self, name, content[:-1]))
    with pytest.raises(ArtifactError, match=r"has \d+ bytes after its upload instead of \d+\. Run again"):
        store_artifact(store, "data", tmp_path / "data")
    assert "data/manifest.json" not in store.files()


def test_a_change_is_repeated_until_there_is_no_conflict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.common.numbered.CONFLICT_SECONDS", 0.01)
    results = iter([ConflictError("Another was first."), ConflictError("Another was first."), "done"])

    def change() -> str:
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    assert repeat_on_conflict(change, "Again.") == "done"
    assert capsys.readouterr().out.count("Another was first. Again.") == 2
    results = iter([ConflictError("Another was first.")] * 9)
    with pytest.raises(ConflictError):
        repeat_on_conflict(change, "Again.")
    assert len(list(results)) == 4


@pytest.mark.parametrize("place", ["/folder", "file:///folder", "gs://b/x", "gcs://b/x", "s3://b/x"])
def test_locations_where_files_can_be_created(place: str) -> None:
    assert check_creates(place) == place


@pytest.mark.parametrize("place", ["http://h/x", "https://h/x", "az://b/x", "sftp://h/x", "zip::gs://b/x.zip"])
def test_other_urls_are_refused_by_name(place: str) -> None:
    scheme = place.partition("://")[0]
    with pytest.raises(ValueError, match=rf"{scheme}:// cannot create .*; use a folder, a gs:// or an s3:// URL"):
        check_creates(place)


@pytest.mark.parametrize("kind", ["s3", pytest.param("gs", marks=pytest.mark.heavy)])
def test_error_for_a_missing_bucket(kind: str, servers: Callable[[str], str]) -> None:
    servers(kind)
    store = store_at(f"{kind}://nowhere/a")
    for use in (store.files, lambda name: store.create(name, b""), lambda name: store.write(name, [b""])):
        with pytest.raises(ArtifactError, match=r" ..://nowhere/a/x: there is no bucket nowhere\. Create it"):
            use("x")


class TestS3:
    """What moto's server does not do by itself is put around it."""

    def test_a_server_without_conditions_is_refused(self) -> None:
        def without(app: Any) -> Any:
            def application(environ: dict[str, Any], start_response: Any) -> Any:
                environ.pop("HTTP_IF_NONE_MATCH", None)
                return app(environ, start_response)

            return application

        with pytest.MonkeyPatch.context() as patch, s3_served(patch, without):
            store = store_at("s3://bucket/without")
            with pytest.raises(ArtifactError, match=r"s3://bucket/without replaces objects although .*\. Use S3, a server"):
                store.create("x", b"")
            store_at("s3://bucket/without").write("x", [b"which needs no condition"])

    def test_a_conflict_of_requests_is_repeated(self) -> None:
        def conflicts(app: Any) -> Any:
            left = iter([True] * 3)

            def application(environ: dict[str, Any], start_response: Any) -> Any:
                if "HTTP_IF_NONE_MATCH" in environ and next(left, False):
                    environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
                    start_response("409 Conflict", [("Content-Type", "application/xml")])
                    return [b"<Error><Code>ConditionalRequestConflict</Code><Message>again</Message></Error>"]
                return app(environ, start_response)

            return application

        with pytest.MonkeyPatch.context() as patch, s3_served(patch, conflicts):
            assert store_at("s3://bucket/conflict").create("x", b"content")
            assert store_at("s3://bucket/conflict").read("x") == b"content"

    def test_without_credentials(self, monkeypatch: pytest.MonkeyPatch, servers: Callable[[str], str]) -> None:
        servers("s3")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        with pytest.raises(ArtifactError, match=r"Cannot list s3://.*: .*credentials.*\. Check the account of this process"):
            store_at("s3://bucket/a").files("x")
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.heavy
class TestFaultsOfGoogle:
    def test_a_lost_answer_is_not_a_conflict(self, bucket: ObjectStore) -> None:
        """The client repeats the request and finds the object that its first request created."""
        bucket.proxy.inject(Fault(LOST, WRITES))
        timer = threading.Timer(0.5, bucket.proxy.inject)
        timer.start()
        store = store_at("gs://bucket/models")
        assert store.create(numbered("champion", 1), b"content")
        timer.join()
        assert bucket.proxy.traffic().statuses[str(LOST)] > 0
        assert not store.create(numbered("champion", 1), b"of another process")

    @pytest.mark.parametrize("status", [429, 503])
    def test_temporary_failures_are_retried(self, bucket: ObjectStore, status: int) -> None:
        store = store_at("gs://bucket/models")
        for use in (lambda: store.create("x", b"content"), lambda: store.files() == {"x": 7}):
            bucket.proxy.inject(Fault(status))
            timer = threading.Timer(0.5, bucket.proxy.inject)
            timer.start()
            assert use()
            timer.join()
        assert bucket.proxy.traffic().statuses[str(status)] >= 2

    @pytest.mark.parametrize(
        ("operation", "status", "sentence"),
        [
            ("list", 401, r"Cannot list gs://bucket/models/x: .*injected by the test"),
            ("list", 403, r"Cannot list gs://bucket/models/x: Forbidden"),
            ("insert", 403, r"Cannot write gs://bucket/models/x: Forbidden"),
            ("delete", 403, r"Cannot remove gs://bucket/models/x: Forbidden"),
        ],
    )
    def test_error_for_a_permanent_failure(self, bucket: ObjectStore, operation: str, status: int, sentence: str) -> None:
        store = store_at("gs://bucket/models")
        store.write("x", [b"content"])
        bucket.proxy.inject(Fault(status, (operation,)))
        use = {"list": store.files, "insert": lambda name: store.create(name, b""), "delete": store.delete}[operation]
        with pytest.raises(ArtifactError, match=sentence) as caught:
            use("x")
        assert "its permission to list, read, create and delete objects there." in str(caught.value)
