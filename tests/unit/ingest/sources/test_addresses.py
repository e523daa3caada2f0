"""URLs as a source, through fsspec: memory://, and (heavy) local servers of HTTP and Google Cloud Storage."""

from __future__ import annotations

import functools
import http.server
import importlib
import importlib.util
import io
import os
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from components.common import addresses
from components.common.addresses import is_address
from components.common.errors import ConfigError, DataRejectedError
from components.ingest.config import IngestConfig
from components.ingest.run import run
from components.ingest.sources import files
from components.ingest.sources.fingerprint import source_fingerprint
from pipeline.config import load_config, resolve_paths
from tests.support.datasets.image_folder import write_digit_images
from tests.support.datasets.source_items import contents, labels, open_images, reasons
from tests.support.servers.bucket_proxy import Fault
from tests.support.servers.object_store import Store
from tests.support.stores import bucket
from tests.unit.ingest.sources.test_archives import FILES, write_archive

__all__ = ["bucket"]  # a fixture
TREE = {"a/1.png": b"one", "a/2.jpg": b"two", "b/deep/3.png": b"three", "root.png": b"root", ".hidden": b"h"}
SEEN = {name: content for name, content in TREE.items() if not name.startswith(".")}


@pytest.fixture
def memory() -> Iterator[Any]:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe({f"/bucket/{name}": content for name, content in TREE.items()})
    yield filesystem
    filesystem.rm("/bucket", recursive=True)


def test_remote_folder(memory: Any) -> None:
    reader = open_images("memory://bucket", labels_from_folders=True)
    assert contents(reader) == SEEN
    assert list(contents(reader)) == sorted(SEEN)
    assert labels(reader) == {"a/1.png": "a", "a/2.jpg": "a", "b/deep/3.png": "deep", "root.png": ""}
    assert contents(open_images("memory://bucket/")) == SEEN
    assert {type(value) for chunk in reader.chunks for value in chunk} <= {str, bytes, int}


def test_remote_patterns_and_single_files(memory: Any) -> None:
    assert set(contents(open_images("memory://bucket/**/*.png"))) == {"a/1.png", "b/deep/3.png", "root.png"}
    assert set(contents(open_images("memory://bucket/a/*"))) == {"1.png", "2.jpg"}
    assert set(contents(open_images("memory://bucket/[ab]/*.png"))) == {"a/1.png"}
    assert contents(open_images("memory://bucket/a/1.png")) == {"1.png": b"one"}


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
def test_remote_archives(memory: Any, tmp_path: Path, kind: str) -> None:
    file = write_archive(tmp_path / f"x{kind}", FILES)
    memory.pipe(f"/bucket/x{kind}", file.read_bytes())
    reader = open_images(f"memory://bucket/x{kind}", labels_from_folders=True)
    assert contents(reader) == FILES
    assert reader.label_names == ("a", "b")
    memory.pipe(f"/bucket/x{kind}", file.read_bytes() + b"more")
    assert {reason for reason, _ in reasons(reader).values()} == {"changed while reading"}


def test_remote_manifest(memory: Any) -> None:
    memory.pipe("/bucket/x.csv", b"path,label\na/1.png,cat\ngone.png,dog\nroot.png,dog\n")
    reader = open_images("memory://bucket/x.csv")
    assert reasons(reader) == {"gone.png": ("unreadable file", "FileNotFoundError")}
    assert labels(reader) == {"a/1.png": "cat", "root.png": "dog"}


def test_changed_missing_and_too_large_objects(memory: Any) -> None:
    reader = open_images("memory://bucket", max_bytes=4)
    memory.rm("/bucket/root.png")
    memory.pipe("/bucket/a/1.png", b"ONE")
    memory.pipe("/bucket/a/2.jpg", b"more")
    assert reasons(reader) == {
        "a/1.png": ("changed while reading", "3 bytes when listed, 3 bytes read"),
        "a/2.jpg": ("changed while reading", "3 bytes when listed, 4 bytes read"),
        "b/deep/3.png": ("too large", "5 bytes, ingest.max_bytes = 4"),
        "root.png": ("unreadable file", "FileNotFoundError"),
    }


def test_failed_reads_are_retried(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_images("memory://bucket/a/*")
    monkeypatch.setattr(files, "RETRY_AFTER_SECONDS", (0.0, 0.0))
    opened, failures = type(memory).open, {"1.png": 2, "2.jpg": 9}

    def failing(self: Any, path: str, *rest: Any, **keys: Any) -> Any:
        name = path.rpartition("/")[2]
        failures[name] -= 1
        if failures[name] >= 0:
            raise OSError("connection lost.")
        return opened(self, path, *rest, **keys)

    monkeypatch.setattr(type(memory), "open", failing)
    assert reasons(reader) == {"2.jpg": ("unreadable file", "connection lost")}
    assert failures == {"1.png": -1, "2.jpg": 6}


def test_fingerprint_of_a_remote_folder(memory: Any) -> None:
    def fingerprint(url: str = "memory://bucket") -> str:
        return source_fingerprint(IngestConfig(source=f"images:{url}"))

    first = fingerprint()
    assert fingerprint() == first
    memory.pipe("/bucket/a/1.png", b"ONE")
    second = fingerprint()
    memory.rm("/bucket/a/1.png")
    third = fingerprint()
    assert len({first, second, third, fingerprint("memory://bucket/a")}) == 4


def test_dataset_of_a_remote_folder_equals_that_of_a_local_one(memory: Any, tmp_path: Path) -> None:
    expected = write_digit_images(tmp_path / "in", 40)
    for file in (tmp_path / "in").rglob("*.*"):
        memory.pipe(f"/bucket/digits/{file.relative_to(tmp_path / 'in')}", file.read_bytes())
    fields = {"labels_from_folders": True, "max_quarantine_fraction": 0.5}
    remote = run(IngestConfig(source="images:memory://bucket/digits", **fields), out=tmp_path / "remote")
    local = run(IngestConfig(source=f"images:{tmp_path}/in", **fields), out=tmp_path / "local")
    assert remote.read == expected.read
    assert remote.model_dump(exclude={"source"}) == local.model_dump(exclude={"source"})
    for file in (tmp_path / "local").glob("*.tfrecord"):
        assert file.read_bytes() == (tmp_path / "remote" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere", r'"images:memory://nowhere": memory://nowhere is not a folder, and no file matches it'),
        ("memory://bucket/*.gif", r"is not a folder, and no file matches it"),
        ("memory://bucket/x.zip", r"memory://bucket/x\.zip cannot be read: "),
        ("memory://bucket/x.csv", r"The manifest memory://bucket/x\.csv cannot be read: "),
        ("nothing://bucket", r'"nothing://bucket" .*: Protocol not known: nothing'),
        ("memory://bucket/x.rar", r"this kind of archive is not supported"),
        ("memory://bucket/*.zip", r"a pattern cannot name more than one archive"),
    ],
)
def test_missing_and_unsupported_urls(memory: Any, url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_images(url)
    assert "\n" not in str(caught.value)


def test_empty_remote_folder(memory: Any) -> None:
    memory.mkdir("/bucket/empty")
    with pytest.raises(DataRejectedError, match=r"memory://bucket/empty contains no files"):
        open_images("memory://bucket/empty")


@pytest.mark.parametrize(("address", "package"), [("gs://bucket/in", "gcsfs"), ("s3://bucket/in", "s3fs")])
def test_missing_package_is_named(address: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    imported = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(imported, address.partition(":")[0], raising=False)
    with pytest.raises(ConfigError, match=rf'"{address}" needs a package that is not installed: .*nstall {package} to .*'):
        open_images(address)


def test_is_address() -> None:
    assert all(is_address(location) for location in ("gs://b/x", "memory://x", "http://h/x", "zip::gs://b/x.zip", "abfs+x://y"))
    assert not any(is_address(location) for location in ("/a/b", "a/b", "file:///a", "/a:b/c::d", "./gs://b", "C:x", "*.png"))


def test_paths_become_absolute_and_urls_do_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def resolved(location: str) -> str:
        return resolve_paths(load_config(None, [f"ingest.source=images:{location}"])).ingest.source

    for location in ("gs://bucket/in/*.png", "s3://b", "http://127.0.0.1:1/x.zip", "memory://x", "/absolute/x"):
        assert resolved(location) == f"images:{location}"
    assert resolved("in/*.png") == f"images:{tmp_path}/in/*.png"
    assert resolved("file:///data/x%20y") == "images:/data/x y"


def test_remote_errors_include_loaded_libraries_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert addresses.remote_errors(ValueError)[:2] == (ValueError, OSError)
    monkeypatch.setattr(addresses, "REMOTE_ERRORS", (("zipfile", "BadZipFile"), ("no_such_library", "Error")))
    assert addresses.remote_errors() == (OSError, zipfile.BadZipFile)


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with listings, without support for ranges, and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


def require(package: str, scheme: str) -> None:
    if importlib.util.find_spec(package) is None:
        reason = f"fsspec needs the package {package} for {scheme}, and it is not installed"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    require("aiohttp", "http://")
    (tmp_path / "www").mkdir()
    handler = functools.partial(SilentHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


@pytest.mark.heavy
def test_images_from_an_http_server(server: str, tmp_path: Path) -> None:
    for name, content in SEEN.items():
        (tmp_path / "www" / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "www" / "in" / name).write_bytes(content * 1000)
    expected = {name: content * 1000 for name, content in SEEN.items()}
    reader = open_images(f"{server}/in/", labels_from_folders=True)
    assert contents(reader) == expected
    assert contents(open_images(f"{server}/in/a/1.png")) == {"1.png": expected["a/1.png"]}
    assert set(contents(open_images(f"{server}/in/a/*.jpg"))) == {"2.jpg"}
    assert set(reasons(open_images(f"{server}/in", max_bytes=3000))) == {"b/deep/3.png", "root.png"}
    config = IngestConfig(source=f"images:{server}/in")
    first = source_fingerprint(config)
    assert source_fingerprint(config) == first
    (tmp_path / "www/in/a/1.png").write_bytes(b"eno" * 1000)
    os.utime(tmp_path / "www/in/a/1.png", (1, 1))
    assert source_fingerprint(config) != first
    (tmp_path / "www/in/a/2.jpg").unlink()
    found = {name: reason for name, (reason, _) in reasons(reader).items()}
    assert found == {"a/1.png": "changed while reading", "a/2.jpg": "unreadable file"}


@pytest.mark.heavy
def test_images_from_a_bucket(bucket: Store) -> None:
    for name, content in {**{name: content * 1000 for name, content in TREE.items()}, "": b""}.items():
        bucket.put(f"in/{name}", content)  # consoles create "folders" such as in/
    expected = {name: content * 1000 for name, content in SEEN.items()}
    reader = open_images("gs://bucket/in", labels_from_folders=True)
    assert contents(reader) == expected
    assert reader.label_names == ("a", "deep")
    assert set(contents(open_images("gs://bucket/**/*.png"))) == {f"in/{name}" for name in SEEN if name.endswith("png")}
    assert contents(open_images("gs://bucket/in/a/1.png")) == {"1.png": expected["a/1.png"]}
    first = source_fingerprint(IngestConfig(source="images:gs://bucket/in"))
    assert source_fingerprint(IngestConfig(source="images:gs://bucket/in")) == first
    bucket.put("in/a/1.png", b"eno" * 1000)
    assert source_fingerprint(IngestConfig(source="images:gs://bucket/in")) != first
    fsspec.filesystem("gs").rm("bucket/in/root.png")
    bucket.proxy.inject(Fault(403, ("read", "stat"), "in/b/deep/3.png"))
    found = {name: reason for name, (reason, _) in reasons(reader).items()}
    assert found == {"a/1.png": "changed while reading", "root.png": "unreadable file", "b/deep/3.png": "unreadable file"}


@pytest.mark.heavy
def test_archives_and_manifests_in_a_bucket(bucket: Store, tmp_path: Path) -> None:
    for kind in (".zip", ".tar", ".tar.gz"):
        bucket.put(f"x{kind}", write_archive(tmp_path / f"x{kind}", FILES).read_bytes())
        assert contents(open_images(f"gs://bucket/x{kind}")) == FILES
    bucket.put("lists/x.csv", b"path,label\na.png,cat\n")
    bucket.put("lists/a.png", b"a")
    assert labels(open_images("gs://bucket/lists/x.csv")) == {"a.png": "cat"}
    for name in ("nowhere", "*.gif", "x.csv", "no.zip"):
        with pytest.raises(ConfigError) as caught:
            open_images(f"gs://bucket/{name}")
        assert "\n" not in str(caught.value)


@pytest.mark.heavy
def test_missing_files_on_an_http_server(server: str) -> None:
    with pytest.raises(ConfigError, match=r"nowhere is not a folder, and no file matches it"):
        open_images(f"{server}/nowhere")
    with pytest.raises(ConfigError, match=r"x\.zip cannot be read"):
        open_images(f"{server}/x.zip")
    with pytest.raises(ConfigError):
        open_images("http://127.0.0.1:1/in")


@pytest.mark.heavy
def test_manifest_and_archive_on_an_http_server(server: str, tmp_path: Path) -> None:
    (tmp_path / "www" / "a.png").write_bytes(b"a")
    (tmp_path / "www" / "x.csv").write_bytes(b"path,label\na.png,cat\n")
    assert labels(open_images(f"{server}/x.csv")) == {"a.png": "cat"}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.png", b"a")
    (tmp_path / "www" / "x.zip").write_bytes(stream.getvalue())
    assert contents(open_images(f"{server}/x.zip")) == {"a.png": b"a"}
    large = write_archive(tmp_path / "www" / "large.zip", {"a.png": os.urandom(6 * 2**20)})
    with pytest.raises(
        ConfigError, match=r"large\.zip cannot be read: The HTTP server doesn't appear to support range requests"
    ):
        open_images(f"{server}/{large.name}")
